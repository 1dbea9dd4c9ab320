"""What this machine can run, as a catalogue: every class that a config may name, with its arguments as JSON Schema.

Arguments are found by `get_signature_parameters`, the function by which LightningCLI's own parser finds them: it
follows `**kwargs` to wherever they go, which `inspect.signature` does not. It is jsonargparse's private function, and
the only one used; the public way, `ArgumentParser.add_class_arguments`, keeps the types it found as private too.
"""

import inspect
import re
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import yaml
from jsonargparse._parameter_resolvers import ParamData, get_signature_parameters

from core.catalog import CALLABLE, LOADERS, LOOP, Catalog, Entry, Kind
from workers.trainer.classes import Announced, Classes, is_loop
from workers.trainer.import_paths import import_path
from workers.trainer.type_schemas import Schema, classes_in, nullable, schema_of, value_of

# What LightningCLI fills in itself.
_FILLED = {Kind.OPTIMIZER: "params", Kind.LR_SCHEDULER: "optimizer"}
_TYPING_KEYWORDS = ("type", "anyOf", "enum", "x-lightyard-class", "x-lightyard-implicit", "x-lightyard-any", "items")
_BOUNDS_FILE = Path(__file__).with_name("bounds.yaml")
_DESCRIPTION_CHARACTERS = 300

Bounds = Mapping[str, Mapping[str, Schema]]


def describe(modules: Sequence[str]) -> Catalog:
    """The catalogue of Lightning's and torch's own classes and of these modules and all below them.

    It imports the modules. One that cannot be imported is a fault of the catalogue, its name the pointer; the rest
    is described all the same.
    """
    # libyaml's, where PyYAML has been built with it: each worker reads this when it starts.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    bounds: Bounds = yaml.load(_BOUNDS_FILE.read_text("utf-8"), loader)  # noqa: S506  # both are safe
    classes = Classes(modules)
    classes.add(pl.Trainer, builtin=True)
    entries: dict[str, Entry] = {}
    pending = list(classes)
    while pending:
        announced = pending.pop()
        parameters = _parameters(announced)
        for parameter in parameters:
            for inner in classes_in(parameter.annotation):
                if id(inner) not in classes.found:
                    classes.add(inner, builtin=announced.builtin)
                    pending += [classes.found[id(inner)]] if id(inner) in classes.found else []
        entries[announced.path] = _entry(announced, parameters, bounds)
    return Catalog(tuple(entries[path] for path in sorted(entries)), tuple(classes.faults))


def _parameters(announced: Announced) -> list[ParamData]:
    return [] if announced.kind is Kind.FUNCTION else list(get_signature_parameters(announced.thing, None))


def _entry(announced: Announced, parameters: Sequence[ParamData], bounds: Bounds) -> Entry:
    filled = _FILLED.get(announced.kind)
    properties: dict[str, Schema] = {}
    required = []
    for parameter in parameters:
        if parameter.name == filled:
            continue
        is_required = _is_required(parameter)
        if not is_required and parameter.name.startswith("_"):
            continue
        if is_required:
            required.append(parameter.name)
        properties[parameter.name] = _property(parameter, is_required, _limit(parameter, bounds), announced.builtin)
    schema: Schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    if announced.kind is Kind.FUNCTION:
        schema = {"type": "object"}
    return Entry(
        class_path=announced.path,
        kind=announced.kind,
        bases=_bases(announced.thing) + _as_data(announced),
        schema=schema,
        doc=_doc(announced),
        aliases=tuple(sorted(announced.aliases)),
        positional=tuple(p.name for p in parameters if p.kind is not inspect.Parameter.KEYWORD_ONLY),
        builtin=announced.builtin,
    )


def _as_data(announced: Announced) -> tuple[str, ...]:
    """What stands among the bases of something that makes plain DataLoaders; a function can be called besides."""
    if not announced.is_plain_data:
        return ()
    return (LOADERS,) if inspect.isclass(announced.thing) else (LOADERS, CALLABLE)


def _bases(thing: Any) -> tuple[str, ...]:
    if not inspect.isclass(thing):
        try:
            thing = typing.get_type_hints(thing).get("return")
        except (NameError, TypeError, AttributeError):  # no annotations, or names that only a type checker sees
            return ()
        if not inspect.isclass(thing):
            return ()
    paths = [import_path(base) for base in thing.__mro__ if base is not object]
    is_callable = any("__call__" in vars(base) for base in thing.__mro__ if base is not object)
    loop = (LOOP,) if is_loop(thing) else ()
    return tuple(path for path in paths if path) + ((CALLABLE,) if is_callable else ()) + loop


def _limit(parameter: ParamData, bounds: Bounds) -> Schema | None:
    """What the bounds say of a parameter, where a class of Lightning or torch defines it."""
    owner = parameter.parent[0] if isinstance(parameter.parent, tuple) else parameter.parent
    if not inspect.isclass(owner) or owner.__module__.partition(".")[0] not in {"torch", "pytorch_lightning"}:
        return None
    return next(
        (bounds[base][parameter.name] for base in _bases(owner) if parameter.name in bounds.get(base, ())), None
    )


def _is_required(parameter: ParamData) -> bool:
    """As jsonargparse has it: an argument without a type or one that may be None is never required."""
    if parameter.default is not inspect.Parameter.empty or parameter.annotation is inspect.Parameter.empty:
        return False
    return nullable(schema := schema_of(parameter.annotation)) != schema


def _property(parameter: ParamData, is_required: bool, limit: Schema | None, builtin: bool) -> Schema:
    schema = schema_of(parameter.annotation)
    if limit is not None:
        if any(keyword in limit for keyword in _TYPING_KEYWORDS):
            schema = {}
        schema = {**schema, **limit}
    elif not is_required:
        schema = nullable(schema)  # LightningCLI takes null for whatever may be left out
    if not is_required and parameter.default is not inspect.Parameter.empty:
        try:
            default = value_of(parameter.default)
        except ValueError:
            pass  # an object with no form in a config: the parameter stays optional, its default unsaid
        else:
            schema = {**schema, "default": default}
            if default is not None and "anyOf" in schema:
                schema["anyOf"] = [
                    {**branch, "default": default} if _names_class(branch) else branch for branch in schema["anyOf"]
                ]
    if parameter.doc:
        text = re.sub(r"\s+", " ", parameter.doc)
        shortened = (
            text if len(text) <= _DESCRIPTION_CHARACTERS or not builtin else text[:_DESCRIPTION_CHARACTERS] + "…"
        )
        schema = {**schema, "description": shortened}
    return schema


def _names_class(schema: Schema) -> bool:
    return "x-lightyard-class" in schema or "x-lightyard-callable" in schema


def _doc(announced: Announced) -> str:
    doc = inspect.cleandoc(announced.thing.__doc__ or "")
    return doc.partition("\n\n")[0] if announced.builtin else doc
