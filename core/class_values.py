"""Class-typed values of a config, in all the forms that LightningCLI takes them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.catalog import CALLABLE, Catalog, Entry, Kind, Unresolved

CLASS, CALLABLE_OF, TYPE = "x-lightyard-class", "x-lightyard-callable", "x-lightyard-type"
WRAPPER = frozenset({"class_path", "init_args", "dict_kwargs"})


@dataclass(frozen=True)
class ClassValue:
    """A value that names a class, or means one, and gives its arguments.

    `name_path` and `args_path` are where in the value the name and the arguments stand.
    """

    name: str | None
    """None where the value names no class and no class is implied."""
    args: Any
    inherited: Mapping[str, Any]
    """Arguments that the parameter's default gives for the same class."""
    name_path: tuple[str, ...]
    args_path: tuple[str, ...]
    is_bare: bool = False
    """Whether the value is a name alone, with no place for arguments."""


def is_class_schema(schema: Mapping[str, Any]) -> bool:
    """Whether values of this schema name a class or a function."""
    return CLASS in schema or CALLABLE_OF in schema or TYPE in schema


def takes_class(schema: Mapping[str, Any]) -> bool:
    """Whether a value of this schema may name a class, itself or in a list."""
    inside = [*schema.get("anyOf", ()), *([schema["items"]] if isinstance(schema.get("items"), dict) else ())]
    return is_class_schema(schema) or "x-lightyard-any" in schema or any(map(takes_class, inside))


def expected_bases(schema: Mapping[str, Any]) -> Sequence[str]:
    """What the class named by a value of this schema must be, or make; empty: anything that can be called."""
    if CLASS in schema:
        return list(schema[CLASS])
    if TYPE in schema:
        return list(schema[TYPE])
    return list(schema[CALLABLE_OF]["returns"])


def read_class_value(value: Any, schema: Mapping[str, Any]) -> ClassValue | None:
    """`value` as a class-typed one, or nothing where it has not the form of one."""
    if isinstance(value, str):
        return ClassValue(value, {}, {}, (), (), is_bare=True)
    if not isinstance(value, dict) or TYPE in schema:
        return None
    default = schema.get("default")
    implied = schema.get("x-lightyard-implicit")
    inherited: Mapping[str, Any] = {}
    if isinstance(default, dict) and isinstance(default.get("class_path"), str):
        implied = default["class_path"]
        inherited = default.get("init_args") or {}
    elif isinstance(default, dict):
        inherited = default
    elif isinstance(default, str):
        implied = default
    if "class_path" in value:
        name = value["class_path"]
        if not isinstance(name, str):
            return None
        args = value.get("init_args", {})
        return ClassValue(name, args, inherited if name == implied else {}, ("class_path",), ("init_args",))
    if value and WRAPPER.issuperset(value):
        return ClassValue(implied, value.get("init_args", {}), inherited, (), ("init_args",))
    return ClassValue(implied, value, inherited, (), ())


def resolve_class(name: str, schema: Mapping[str, Any], catalog: Catalog) -> Entry | Unresolved:
    """The entry that `name` means for a value of this schema."""
    bases = expected_bases(schema)
    if CALLABLE_OF not in schema:
        return catalog.resolve(name, bases)
    by_path = catalog.get(name)
    if (
        by_path is not None
        and by_path.kind is Kind.FUNCTION
        and (not bases or not by_path.bases or by_path.is_a(bases))
    ):
        return by_path
    return catalog.resolve(name, bases or (CALLABLE,))


def arguments_schema(entry: Entry, schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema of the arguments a config gives: for a factory, less the first ones, which its caller gives."""
    given_by_caller = schema.get(CALLABLE_OF, {}).get("positional", 0) if expected_bases(schema) else 0
    skipped = set(entry.positional[:given_by_caller])
    if skipped.isdisjoint(entry.schema.get("properties", {})):
        return entry.schema
    return {
        **entry.schema,
        "properties": {name: sub for name, sub in entry.schema["properties"].items() if name not in skipped},
        "required": [name for name in entry.schema.get("required", ()) if name not in skipped],
    }
