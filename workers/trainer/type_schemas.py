"""Type annotations as JSON Schema, with the catalogue's keywords (see `core.catalog`) where a class is meant.

What a type accepts is what jsonargparse accepts for it, because that is what LightningCLI reads a config with.
"""

import collections
import collections.abc
import dataclasses
import datetime
import enum
import inspect
import itertools
import math
import os
import pathlib
import re
import sys
import types
import typing
from collections.abc import Iterator
from typing import Any

import pytorch_lightning as pl
import torch

from workers.trainer.import_paths import import_path

Schema = dict[str, Any]

_LISTS: set[Any] = {
    list,
    collections.abc.Sequence,
    collections.abc.MutableSequence,
    collections.abc.Iterable,
    collections.deque,
}
_LISTS |= {collections.abc.Collection}
_SETS: set[Any] = {set, frozenset, collections.abc.Set, collections.abc.MutableSet}
_MAPPINGS: set[Any] = {dict, collections.abc.Mapping, collections.abc.MutableMapping, collections.OrderedDict}
_MAPPINGS |= {collections.defaultdict, types.MappingProxyType}
_BASIC = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}
_QUALIFIERS = {typing.Required, typing.NotRequired, typing.Final, typing.ClassVar}
_NOT_FROM_CONFIG: dict[type, str] = {
    torch.Tensor: "a torch.Tensor is made in code",
    torch.Generator: "a torch.Generator is made in code",
    torch.device: "the service chooses the device",
    pl.Trainer: "the Trainer is made by the service",
}
_DURATION = {
    "type": "string",
    "pattern": r"^([-\d]+ days?, )?\d+:\d+:\d[.\d]*",
    "x-lightyard-expected": 'a duration as "h:m:s" or "d days, h:m:s"',
}
_BOUNDS = {  # attributes of annotated_types' and pydantic's constraints
    "gt": "exclusiveMinimum",
    "ge": "minimum",
    "lt": "exclusiveMaximum",
    "le": "maximum",
    "multiple_of": "multipleOf",
    "pattern": "pattern",
}
_COMPARISONS = {">": "exclusiveMinimum", ">=": "minimum", "<": "exclusiveMaximum", "<=": "maximum", "==": "const"}


def schema_of(hint: Any) -> Schema:
    """The schema of values that a parameter of this type takes; of anything where the type says nothing."""
    hint = _plain(hint)
    if hint in (Any, object, inspect.Parameter.empty):
        return {"x-lightyard-any": True}
    if isinstance(hint, type) and hint in _BASIC:
        return {"type": _BASIC[hint]}
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _annotated(hint.__origin__, hint.__metadata__)
    if origin is typing.Union or isinstance(hint, types.UnionType):
        return union([schema_of(arg) for arg in args])
    if origin is typing.Literal:
        return _enum([arg.name if isinstance(arg, enum.Enum) else arg for arg in args])
    if origin is type or hint is type:
        return {"x-lightyard-type": _class_paths(args)}
    if origin is collections.abc.Callable or hint is collections.abc.Callable:
        return _callable(args)
    return _collection(origin or hint, args) or _class(origin or hint)


def union(branches: list[Schema]) -> Schema:
    """Any of these; what no config can give is left out where something else can be given."""
    if any("x-lightyard-any" in branch for branch in branches):
        return {"x-lightyard-any": True}
    refused = [branch for branch in branches if "x-lightyard-refused" in branch]
    if any(branch != {"type": "null"} and branch not in refused for branch in branches):
        branches = [branch for branch in branches if branch not in refused]
    names: list[str] = []
    values: list[Any] = []
    others: list[Schema] = []
    for branch in itertools.chain(*(outer["anyOf"] if set(outer) == {"anyOf"} else [outer] for outer in branches)):
        if set(branch) == {"type"}:
            names += [branch["type"]] if isinstance(branch["type"], str) else branch["type"]
        elif set(branch) == {"enum"}:
            values += branch["enum"]
        elif branch not in others:
            others.append(branch)
    names = list(dict.fromkeys(name for name in names if not (name == "integer" and "number" in names)))
    if values:
        others.insert(0, _enum(values + [None] * (names == ["null"])))
        names = [] if names == ["null"] else names
    if names:
        others.append({"type": names[0] if len(names) == 1 else names})
    return others[0] if len(others) == 1 else {"anyOf": others}


def nullable(schema: Schema) -> Schema:
    """The schema, and null."""
    if "x-lightyard-any" in schema:
        return schema
    if "enum" in schema:
        return schema if None in schema["enum"] else {**schema, "enum": [*schema["enum"], None]}
    if "type" in schema:
        names = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
        return schema if "null" in names else {**schema, "type": [*names, "null"]}
    return union([schema, {"type": "null"}])


def value_of(default: Any) -> Any:
    """A default as a JSON value that LightningCLI reads back as it; raises ValueError where there is none."""
    if default is None or isinstance(default, (bool, str)):
        return default
    if isinstance(default, enum.Enum):
        return default.name
    if isinstance(default, int):
        return int(default)
    if isinstance(default, float):
        if math.isfinite(default):
            return float(default)
        return ".nan" if math.isnan(default) else (".inf" if default > 0 else "-.inf")
    if isinstance(default, (list, tuple)):
        return [value_of(item) for item in default]
    if isinstance(default, (set, frozenset)):
        return sorted((value_of(item) for item in default), key=str)
    if isinstance(default, dict):
        return {str(key): value_of(item) for key, item in default.items()}
    if isinstance(default, (os.PathLike, torch.dtype, torch.device)):
        return str(default)
    if isinstance(default, datetime.timedelta):
        return str(default)
    if dataclasses.is_dataclass(default) and not isinstance(default, type):
        return {item.name: value_of(getattr(default, item.name)) for item in dataclasses.fields(default) if item.init}
    if (isinstance(default, type) or inspect.isroutine(default)) and (path := import_path(default)):
        return path
    raise ValueError(default)


def classes_in(hint: Any) -> Iterator[type]:
    """The dataclasses that a parameter of this type is given as, wherever they are defined."""
    hint = _plain(hint)
    for arg in typing.get_args(hint):
        yield from classes_in(arg)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        yield hint


def _plain(hint: Any) -> Any:
    """The type less what only names or qualifies it."""
    while True:
        if isinstance(hint, typing.NewType):
            hint = hint.__supertype__
        elif hasattr(hint, "__value__"):  # a `type X = …` of Python 3.12
            hint = hint.__value__
        elif typing.get_origin(hint) in _QUALIFIERS:
            hint = typing.get_args(hint)[0]
        elif isinstance(hint, typing.TypeVar):
            hint = hint.__bound__ or Any
        elif hint is None:
            hint = type(None)
        else:
            return hint


def _annotated(hint: Any, metadata: tuple[Any, ...]) -> Schema:
    schema = schema_of(hint)
    if schema.get("type") == "integer":
        schema["x-lightyard-lax"] = True  # pydantic checks these, and takes 64.0 for 64
    for constraint in [part for item in metadata for part in (item, *getattr(item, "metadata", ()))]:
        for name, keyword in _BOUNDS.items():
            bound = getattr(constraint, name, None)
            if isinstance(bound, (int, float, str)):
                schema[keyword] = bound
        for name, end in (("min_length", "min"), ("max_length", "max")):
            if isinstance(bound := getattr(constraint, name, None), int):
                schema[end + ("Length" if schema.get("type") == "string" else "Items")] = bound
    return schema


def _enum(values: list[Any]) -> Schema:
    return {"enum": list(dict.fromkeys(values)) if not any(isinstance(value, bool) for value in values) else values}


def _callable(args: tuple[Any, ...]) -> Schema:
    returned = _plain(args[-1]) if args else Any
    parameters = args[0] if args else ()
    positional = len(parameters) if isinstance(parameters, list) else 0
    return {"x-lightyard-callable": {"returns": _class_paths((returned,)), "positional": positional}}


def _class_paths(hints: tuple[Any, ...]) -> list[str]:
    """Paths of the classes among these types and their unions."""
    paths = []
    for hint in map(_plain, hints):
        if hint is Any:
            continue
        if typing.get_origin(hint) in {typing.Union, types.UnionType}:
            paths += _class_paths(typing.get_args(hint))
        elif isinstance(hint, type) and hint not in _BASIC and hint is not object and (path := import_path(hint)):
            paths.append(path)
    return paths


def _collection(kind: Any, args: tuple[Any, ...]) -> Schema | None:
    if kind in _LISTS or kind in _SETS:
        return {"type": "array"} | ({"items": schema_of(args[0])} if args else {})
    if kind is tuple:
        if not args:
            return {"type": "array"}
        if len(args) == 2 and args[1] is Ellipsis:
            return {"type": "array", "items": schema_of(args[0])}
        items = [schema_of(arg) for arg in args]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
    if kind in _MAPPINGS:
        return {"type": "object"} | ({"additionalProperties": schema_of(args[1])} if len(args) == 2 else {})
    return None


def _class(kind: Any) -> Schema:
    if not isinstance(kind, type):
        return {"x-lightyard-any": True}
    if issubclass(kind, enum.Enum):
        return {"enum": list(kind.__members__)}
    if kind is torch.dtype:
        return {"enum": dtypes()}
    if kind in _NOT_FROM_CONFIG:
        return {"x-lightyard-refused": _NOT_FROM_CONFIG[kind]}
    if kind is datetime.timedelta:
        return dict(_DURATION)
    if issubclass(kind, (os.PathLike, pathlib.PurePath)):
        return {"type": "string"}
    if typing.is_typeddict(kind):
        hints = typing.get_type_hints(kind)
        properties = {name: schema_of(hint) for name, hint in hints.items()}
        required = sorted(kind.__required_keys__)  # type: ignore[attr-defined]  # a TypedDict has it
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    if restricted := _restricted(kind):
        return restricted
    root = kind.__module__.partition(".")[0]
    if root == "jsonargparse":  # its path types, which a config gives as strings
        return {"type": "string"}
    if root in sys.stdlib_module_names or hasattr(kind, "_fields") or getattr(kind, "_is_protocol", False):
        return {"x-lightyard-any": True}
    path = import_path(kind)  # type: ignore[arg-type]  # classes are hashable
    if path is None:
        return {"x-lightyard-refused": f"a {kind.__qualname__} has no import path"}
    concrete = not inspect.isabstract(kind)
    return {"x-lightyard-class": [path]} | ({"x-lightyard-implicit": path} if concrete else {})


def _restricted(kind: type) -> Schema | None:
    """The schema of `jsonargparse.typing`'s restricted numbers and strings.

    They say what they are in their `_type`, and in `_expression` (`v>0 and v<=1`) or `_regex`, which are not public;
    a test holds this to the installed version.
    """
    base = getattr(kind, "_type", None)
    if base in (int, float) and issubclass(kind, (int, float)):
        schema: Schema = {"type": _BASIC[base]}
        expression = str(getattr(kind, "_expression", ""))
        if " or " in expression:
            return schema
        for symbol, number in re.findall(r"v\s*(>=|<=|==|>|<)\s*(-?[\d.]+)", expression):
            if symbol in _COMPARISONS:
                schema[_COMPARISONS[symbol]] = float(number) if "." in number else int(number)
        return schema
    regex = getattr(kind, "_regex", None)
    if isinstance(regex, re.Pattern) and issubclass(kind, str):
        return {"type": "string", "pattern": regex.pattern}
    return None


def dtypes() -> list[str]:
    """Every torch.dtype as a config names it."""
    return sorted({str(value) for value in vars(torch).values() if isinstance(value, torch.dtype)})
