"""Where a class or function can be imported from."""

import functools
import inspect
import sys
from typing import Any


@functools.cache
def import_path(thing: Any) -> str | None:
    """The shortest public path of a class or function; nothing where there is none, as for a local class.

    It is the one that jsonargparse writes: the outermost package around its module that has it under its name.
    """
    defined = defining_path(thing)
    if defined is None:
        return None
    module, _, name = defined.rpartition(".")
    parts = module.split(".")
    for length in range(1, len(parts) + 1):
        outer = ".".join(parts[:length])
        if getattr(sys.modules.get(outer), name, None) is thing:
            return f"{outer}.{name}"
    return None


def defining_path(thing: Any) -> str | None:
    """The path of the module that defines it; nothing where it stands inside a function or a class."""
    module = getattr(thing, "__module__", None)
    if inspect.isbuiltin(thing):  # torch's own functions: their qualified name speaks of a class that nobody sees
        name = thing.__name__
        module = module or "torch"
        if getattr(sys.modules.get(module), name, None) is not thing:
            return None
    else:
        name = getattr(thing, "__qualname__", "")
    if not isinstance(module, str) or not name.isidentifier():
        return None
    return f"{module}.{name}"
