"""Functions and classes that make plain DataLoaders, which a config may give as `data` in place of a data module."""

import collections.abc
import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from pytorch_lightning.utilities.combined_loader import CombinedLoader
from torch.utils.data import DataLoader

from models.data import Loaders
from workers.trainer.import_paths import import_path

_LOADERS = (DataLoader, CombinedLoader)
_BY_ROLE = {tuple, dict, collections.abc.Mapping, collections.abc.MutableMapping}
_SEVERAL = {list, collections.abc.Sequence, typing.Required, typing.NotRequired}


def makes_loaders(thing: Any) -> bool:
    """Whether this is a class of DataLoaders, or is annotated to return them: alone, in a tuple or in a mapping.

    A class may return them when its instances are called.
    """
    if inspect.isclass(thing) and issubclass(thing, _LOADERS):
        return True
    function = getattr(thing, "__call__", None) if inspect.isclass(thing) else thing  # noqa: B004  # its annotations are asked
    if not inspect.isfunction(function):
        return False
    try:
        returned = typing.get_type_hints(function).get("return")
    except (NameError, TypeError, AttributeError):  # names that only a type checker sees
        return False
    return _holds_loaders(returned, _BY_ROLE)


def spelled_out(config: dict[str, Any], announced: Mapping[str, Any]) -> dict[str, Any]:
    """A config whose `data` are plain loaders, in the form in which LightningCLI reads it: `models.data.Loaders`.

    `announced` is what a config may name, by path; any other config stays as it is.
    """
    data = config.get("data")
    path = data.get("class_path") if isinstance(data, dict) else data
    found = announced.get(path) if isinstance(path, str) else None
    if found is None or not found.is_plain_data:
        return config
    arguments = (data.get("init_args") if isinstance(data, dict) else None) or {}
    spelled = {"class_path": import_path(Loaders), "init_args": {"loaders": path, "arguments": arguments}}
    return config | {"data": spelled}


def _holds_loaders(hint: Any, containers: Sequence[Any] | set[Any]) -> bool:
    """Whether a value of this type has DataLoaders in it, itself or inside of these containers."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType, typing.Annotated):
        return any(_holds_loaders(arg, containers) for arg in args)
    if origin in containers:
        return any(_holds_loaders(arg, _BY_ROLE | _SEVERAL) for arg in args)
    kind = origin or hint
    if not isinstance(kind, type):
        return False
    if typing.is_typeddict(kind) or (issubclass(kind, tuple) and hasattr(kind, "_fields")):
        return any(_holds_loaders(field, _BY_ROLE | _SEVERAL) for field in typing.get_type_hints(kind).values())
    return issubclass(kind, _LOADERS)
