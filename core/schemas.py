"""JSON Schema with the catalogue's keywords.

Values are taken as LightningCLI takes them: a string where a number is expected is one if YAML reads it so.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend

from core.catalog import Catalog, Unresolved
from core.class_values import CALLABLE_OF, CLASS, TYPE, WRAPPER, arguments_schema, read_class_value, resolve_class
from core.schema_faults import Problem, did_you_mean, expected, got
from core.values import FAULTS_MAX
from core.yaml_reader import yaml_collection, yaml_scalar

Validator = Any
"""A jsonschema validator: its protocol leaves out `descend`."""


def _validator_class(parent: Any, keywords: Mapping[str, Any], type_checker: Any = None) -> Any:
    """A class of validators whose `descend` is as the library's, less what only `$ref` needs.

    The catalogue's schemas have none, and without it a config is checked in a fifth of the time.
    """
    make: Any = extend
    made = make(parent, keywords, type_checker=type_checker or parent.TYPE_CHECKER)
    made.descend = _descend
    return made


def _descend(
    validator: Validator, instance: Any, schema: Any, path: Any = None, schema_path: Any = None
) -> Iterator[ValidationError]:
    if isinstance(schema, bool):
        schema = {} if schema else {"not": {}}
    for keyword, limit in schema.items():
        check = validator.VALIDATORS.get(keyword)
        for error in (check and check(validator, limit, instance, schema)) or ():
            error._set(validator=keyword, validator_value=limit, instance=instance, schema=schema)
            error.schema_path.appendleft(keyword)
            if path is not None:
                error.path.appendleft(path)
            if schema_path is not None:
                error.schema_path.appendleft(schema_path)
            yield error


def accepts(validator: Validator, value: Any, schema: Mapping[str, Any]) -> bool:
    """Whether a value has no fault under one part of a validator's schemas."""
    return next(validator.descend(value, schema), None) is None


def config_validator(catalog: Catalog, schema: Mapping[str, Any]) -> Validator:
    """A validator of values that LightningCLI would read, class names looked up in `catalog`."""

    def class_value(validator: Validator, _: Any, value: Any, schema: Mapping[str, Any]) -> Iterator[ValidationError]:
        yield from _class_value(catalog, validator, value, schema)

    make = _validator_class(_LENIENT, {CLASS: class_value, CALLABLE_OF: class_value, TYPE: class_value})
    return make(schema)


def strict_validator(schema: Mapping[str, Any]) -> Validator:
    """A validator of a body of the API's own: a string is no number."""
    return _STRICT(schema)


# --- Values as LightningCLI reads them ----------------------------------------------------------------------------


def _number_in(value: Any) -> int | float | None:
    """The number that `value` is, or that the string it is writes."""
    if isinstance(value, str):
        value = yaml_scalar(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
        return None
    return value


_STRICT_TYPES = Draft202012Validator.TYPE_CHECKER.redefine(
    "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool)
)
_LENIENT_TYPES = _STRICT_TYPES.redefine_many(
    {
        "integer": lambda _, value: isinstance(_number_in(value), int),
        "number": lambda _, value: _number_in(value) is not None,
        "boolean": lambda _, value: isinstance(yaml_scalar(value) if isinstance(value, str) else value, bool),
    }
)


def _type(validator: Validator, types: Any, value: Any, schema: Mapping[str, Any]) -> Iterator[ValidationError]:
    names = [types] if isinstance(types, str) else types
    if any(validator.is_type(value, name) for name in names):
        return
    if "x-lightyard-lax" in schema and isinstance(value, float) and value.is_integer():
        return
    yield ValidationError("type")


def _compare(holds: Callable[[float, float], bool]) -> Callable[..., Iterator[ValidationError]]:
    def keyword(_: Validator, limit: float, value: Any, schema: Mapping[str, Any]) -> Iterator[ValidationError]:
        if isinstance(value, str) and "string" in (schema.get("type") or ()):
            return
        number = _number_in(value)
        if number is not None and not holds(number, limit):
            yield ValidationError("range")

    return keyword


def _enum(_: Validator, allowed: list[Any], value: Any, schema: Mapping[str, Any]) -> Iterator[ValidationError]:
    if any(value == item and isinstance(value, bool) == isinstance(item, bool) for item in allowed):
        return
    if isinstance(value, str):
        if "x-lightyard-anycase" in schema and value.lower() in allowed:
            return
        read = yaml_scalar(value)
        if not isinstance(read, str) and read in [item for item in allowed if not isinstance(item, str)]:
            return
    yield ValidationError("enum")


def _required(_: Validator, names: list[str], value: Any, __: Mapping[str, Any]) -> Iterator[ValidationError]:
    if isinstance(value, dict):
        for name in names:
            if name not in value:
                yield Problem("missing_argument", f"{name} is missing.", [name])


def _is_too_large(value: Any, schema: Mapping[str, Any]) -> bool:
    """Whether it has more members than it may: that is its fault, and nobody looks at them."""
    limit: float = schema.get("maxProperties", math.inf)
    return len(value) > limit


def _additional(validator: Validator, rest: Any, value: Any, schema: Mapping[str, Any]) -> Iterator[ValidationError]:
    if not isinstance(value, dict) or _is_too_large(value, schema):
        return
    known = schema.get("properties", {})
    for key, item in value.items():
        if key in known:
            continue
        if rest is False:
            code = schema.get("x-lightyard-unknown", "unknown_argument")
            hint = functools.partial(did_you_mean, key, known)
            yield Problem(code, f"There is no {key[:100]!r} here.", [key], hint=hint)
        else:
            yield from validator.descend(item, rest, path=key)


def _property_names(
    validator: Validator, names: Any, value: Any, schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    for key in value if isinstance(value, dict) and not _is_too_large(value, schema) else ():
        yield from validator.descend(key, names, path=key)


def _any_of(validator: Validator, branches: Any, value: Any, _: Mapping[str, Any]) -> Iterator[ValidationError]:
    """The library's own looks for every error of every branch, and writes the value into its message."""
    found: list[ValidationError] = []
    for index, branch in enumerate(branches):
        errors = list(itertools.islice(validator.descend(value, branch, schema_path=index), FAULTS_MAX + 1))
        if not errors:
            return
        found += errors
    yield ValidationError("anyOf", context=found)


def _any(_: Validator, __: Any, value: Any, ___: Mapping[str, Any]) -> Iterator[ValidationError]:
    for path in _class_specs(value, ()):
        message = (
            "This parameter has no type that is a class, so the class would not be built."
            " Annotate the parameter with the class it takes."
        )
        yield Problem("refused", message, path)


def _class_specs(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict):
        if "class_path" in value and WRAPPER.issuperset(value):
            yield path
        else:
            for key, item in value.items():
                yield from _class_specs(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _class_specs(item, (*path, index))


def _refused(_: Validator, __: Any, ___: Any, ____: Mapping[str, Any]) -> Iterator[ValidationError]:
    yield ValidationError("refused")


_STRICT = _validator_class(
    Draft202012Validator,
    {"required": _required, "additionalProperties": _additional, "propertyNames": _property_names, "anyOf": _any_of},
    type_checker=_STRICT_TYPES,
)
_LENIENT = _validator_class(
    _STRICT,
    {
        "type": _type,
        "enum": _enum,
        "minimum": _compare(lambda number, limit: number >= limit),
        "maximum": _compare(lambda number, limit: number <= limit),
        "exclusiveMinimum": _compare(lambda number, limit: number > limit),
        "exclusiveMaximum": _compare(lambda number, limit: number < limit),
        "multipleOf": _compare(lambda number, limit: math.isfinite(number) and number % limit == 0),
        "x-lightyard-any": _any,
        "x-lightyard-refused": _refused,
    },
    type_checker=_LENIENT_TYPES,
)


# --- Classes ------------------------------------------------------------------------------------------------------


def _class_value(
    catalog: Catalog, validator: Validator, value: Any, schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    spec = read_class_value(value, schema)
    if spec is None:
        message = f"Expected {expected(schema)}, got {got(value)}."
        if isinstance(value, dict) and "class_path" in value:
            yield Problem("wrong_type", "class_path must be a string.", ["class_path"])
        else:
            yield Problem("wrong_type", message, wrong_shape=True)
        return
    if spec.name is None:
        yield Problem("missing_argument", f"class_path is missing: expected {expected(schema)}.", ["class_path"])
        return
    entry = resolve_class(spec.name, schema, catalog)
    if "class_path" in value and isinstance(value, dict):
        yield from _wrapper(value, {} if isinstance(entry, Unresolved) else entry.schema.get("properties", {}))
    if isinstance(entry, Unresolved) and not spec.is_bare and not spec.name_path:
        # The class that the parameter's type implies is none that can be made.
        yield Problem("missing_argument", f"class_path is missing: expected {expected(schema)}.", ["class_path"])
        return
    if isinstance(entry, Unresolved):
        # A bare word that is no class may be meant for another alternative, as `simple` is for `profiler`.
        is_word = spec.is_bare and "." not in spec.name
        yield Problem(entry.code, entry.reason, spec.name_path, wrong_shape=is_word, hint=entry.hint)
        return
    if TYPE in schema:
        return
    arguments = arguments_schema(entry, schema)
    if not isinstance(spec.args, dict):
        yield Problem("wrong_type", f"init_args must be an object, got {got(spec.args)}.", spec.args_path)
        return
    if spec.is_bare:
        if missing := [name for name in arguments.get("required", ()) if name not in spec.inherited]:
            need = ", ".join(missing)
            yield Problem("missing_argument", f"{entry.name} needs {need}: write {{class_path, init_args}}.")
        return
    given = {name: read_collection(validator, item, arguments, name) for name, item in spec.args.items()}
    for error in validator.descend({**spec.inherited, **given}, arguments):
        error.path.extendleft(reversed(spec.args_path))
        yield error


def _wrapper(value: dict[str, Any], parameters: Mapping[str, Any]) -> Iterator[ValidationError]:
    """What stands beside `class_path` and `init_args`."""
    if value.get("dict_kwargs"):
        message = "dict_kwargs are passed on unchecked, so they are refused: use init_args."
        yield Problem("refused", message, ["dict_kwargs"])
    for key in value:
        if key not in WRAPPER:
            message = f"There is no {key[:100]!r} beside class_path."
            if key in parameters:
                yield Problem("unknown_field", f"{message} Put it under init_args.", [key])
            else:
                hint = functools.partial(did_you_mean, key, sorted(WRAPPER))
                yield Problem("unknown_field", message, [key], hint=hint)


def read_collection(validator: Validator, value: Any, arguments: Mapping[str, Any], name: str) -> Any:
    """The list or object that a string given to a parameter writes, where the parameter does not take the string."""
    schema = arguments.get("properties", {}).get(name)
    if not isinstance(value, str) or schema is None or accepts(validator, value, schema):
        return value
    read = yaml_collection(value)
    return value if read is None else read
