"""What jsonargparse asks itself hundreds of times while it reads one config, always with the same answer, is kept.

Half of the time that a config takes went into that. Each of these stands in the place of a function that is not part
of jsonargparse's interface: a version that has none of that name is left as it is, and is slower.
"""

import sys
from collections.abc import Callable
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from pydantic import TypeAdapter

LOOKUP = "find_action_and_subcommand"
VALIDATION = "validate_annotated"
KEY = "_parse_key"
MEMO = "_lightyard_found"
"""The attribute of a parser that keeps what was looked up in it."""

_adapters: dict[Any, TypeAdapter[Any]] = {}


def keep() -> None:
    """Put them in place; to be called once."""
    _replace(LOOKUP, _looked_up)
    _replace(VALIDATION, _validated)
    parse_key = getattr(Namespace, KEY, None)
    if parse_key is not None:
        setattr(Namespace, KEY, _parsed_key(parse_key))


def _replace(name: str, made_of: Callable[[Any], Any]) -> None:
    """Put what is made of the function of this name in its place, in every module that has taken it from another."""
    inside = [module for path, module in list(sys.modules.items()) if path.startswith("jsonargparse._")]
    originals = {function for module in inside if (function := vars(module).get(name)) is not None}
    if len(originals) == 1:
        replacement = made_of(originals.pop())
        for module in inside:
            if name in vars(module):
                vars(module)[name] = replacement


def _looked_up(original: Callable[..., Any]) -> Callable[..., Any]:
    """Which argument a key of a config means: looked for among all that a parser has, each time."""

    def look_up(parser: Any, dest: str, exclude: Any = None) -> Any:
        if not isinstance(parser, ArgumentParser):
            return original(parser, dest, exclude)
        there = len(parser._actions)  # nothing is taken from a parser, but something may be added
        count, found = vars(parser).get(MEMO, (0, {}))
        if count != there:
            found = {}
            setattr(parser, MEMO, (there, found))
        asked = (dest, exclude)
        if asked not in found:
            found[asked] = original(parser, dest, exclude)
        return found[asked]

    return look_up


def _validated(original: Callable[..., Any]) -> Callable[..., Any]:
    """A value held against a type with bounds: pydantic builds a validator for each."""

    def validate(value: Any, typehint: Any) -> Any:
        try:
            adapter = _adapters.get(typehint)
        except TypeError:  # bounds that cannot be hashed
            return original(value, typehint)
        if adapter is None:
            adapter = _adapters[typehint] = TypeAdapter(typehint)
        return adapter.validate_python(value)

    return validate


def _parsed_key(original: Callable[..., Any]) -> Callable[..., Any]:
    """Where in a namespace a key stands: most have no dot, and stand in it itself."""
    namespace_attributes = frozenset(dir(Namespace))

    def parse_key(self: Namespace, key: str) -> Any:
        if type(key) is str and key.isidentifier() and key not in namespace_attributes:
            return key, self, ""
        return original(self, key)

    return parse_key
