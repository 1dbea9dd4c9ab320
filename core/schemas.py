"""JSON Schema with the catalogue's keywords, and its errors as faults: every one, in words, at its pointer.

The validator takes values as LightningCLI does: a string where a number is expected is one if YAML reads it so.
"""

import difflib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from jsonschema.protocols import Validator
from jsonschema.validators import extend

from core.catalog import Catalog, Unresolved, words_for
from core.class_values import (
    CALLABLE_OF,
    CLASS,
    TYPE,
    WRAPPER,
    arguments_schema,
    expected_bases,
    is_class_schema,
    read_class_value,
    resolve_class,
)
from core.errors import Fault
from core.values import escape
from core.yaml_reader import yaml_collection, yaml_scalar

_CODES = {
    "enum": "not_allowed",
    "const": "not_allowed",
    "pattern": "not_allowed",
    "minimum": "out_of_range",
    "maximum": "out_of_range",
    "exclusiveMinimum": "out_of_range",
    "exclusiveMaximum": "out_of_range",
    "multipleOf": "out_of_range",
    "minLength": "out_of_range",
    "maxLength": "out_of_range",
    "minItems": "out_of_range",
    "maxItems": "out_of_range",
    "minProperties": "out_of_range",
    "maxProperties": "out_of_range",
    "x-lightyard-refused": "refused",
}
_TYPE_WORDS = {
    "integer": "an integer",
    "number": "a number",
    "string": "a string",
    "boolean": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}


class Problem(ValidationError):
    """A validation error that knows its code; its message is a sentence for the caller.

    `wrong_shape` says that the value is of another form altogether, so that of several alternatives this one was
    not meant.
    """

    def __init__(self, code: str, message: str, path: Iterable[str] = (), *, wrong_shape: bool = False) -> None:
        super().__init__(message, path=tuple(path))
        self.code = code
        self.wrong_shape = wrong_shape


def config_validator(catalog: Catalog, schema: Mapping[str, Any]) -> Validator:
    """A validator of values that LightningCLI would read, class names looked up in `catalog`."""

    def class_value(validator: Validator, _: Any, value: Any, schema: Mapping[str, Any]) -> Iterator[ValidationError]:
        yield from _class_value(catalog, validator, value, schema)

    make = extend(_LENIENT, {CLASS: class_value, CALLABLE_OF: class_value, TYPE: class_value})
    return make(schema)


def strict_validator(schema: Mapping[str, Any]) -> Validator:
    """A validator of a body of the API's own: a string is no number."""
    return _STRICT(schema)


def faults_of(validator: Validator, value: Any, pointer: str) -> list[Fault]:
    """Every fault of `value`, which stands at `pointer`, in the order of the document."""
    return [fault for error in validator.iter_errors(value) for fault in _faults(error, pointer)]


def _faults(error: ValidationError, pointer: str) -> Iterator[Fault]:
    if error.validator == "anyOf":
        if branch := _meant_branch(error):
            for inner in branch:
                yield from _faults(inner, pointer)
            return
        code = "not_allowed" if _mentions_enum(error) else "wrong_type"
        message = f"Expected {expected(error.schema)}, got {got(error.instance)}."
    elif isinstance(error, Problem):
        code, message = error.code, error.message
    else:
        code = _CODES.get(str(error.validator), "wrong_type")
        message = _message(error)
    yield Fault(pointer + "".join(f"/{escape(str(token))}" for token in error.absolute_path), code, message)


def _meant_branch(error: ValidationError) -> list[ValidationError]:
    """The errors of the one alternative whose form the value has; none where it has that of none."""
    branches: dict[Any, list[ValidationError]] = {}
    for inner in error.context or ():
        branches.setdefault(inner.relative_schema_path[0], []).append(inner)
    fitting = [errors for errors in branches.values() if not any(map(_is_wrong_shape, errors))]
    if not fitting and not _mentions_enum(error):
        # A name that is no class, where nothing but a class, or a list of them, could be meant.
        fitting = [errors for errors in branches.values() if any(map(_names_no_class, errors))]
    return min(fitting, key=len, default=[])


def _names_no_class(error: ValidationError) -> bool:
    return isinstance(error, Problem) and error.code in {"unknown_class", "wrong_kind", "ambiguous_class"}


def _is_wrong_shape(error: ValidationError) -> bool:
    if error.relative_path:
        return False
    if isinstance(error, Problem):
        return error.wrong_shape
    if error.validator == "anyOf":
        return not _meant_branch(error)
    return error.validator in {"type", "enum", "const", "x-lightyard-refused"}


def _mentions_enum(error: ValidationError) -> bool:
    return any(
        inner.validator in {"enum", "const"} and isinstance(inner.instance, str) for inner in error.context or ()
    )


def _message(error: ValidationError) -> str:
    schema, limit = error.schema, error.validator_value
    value = got(error.instance)
    if isinstance(schema, Mapping) and "x-lightyard-expected" in schema:
        return f"Expected {schema['x-lightyard-expected']}, got {value}."
    match error.validator:
        case "minimum":
            return f"Must be at least {limit}, got {value}."
        case "maximum":
            return f"Must be at most {limit}, got {value}."
        case "exclusiveMinimum":
            return f"Must be greater than {limit}, got {value}."
        case "exclusiveMaximum":
            return f"Must be less than {limit}, got {value}."
        case "multipleOf":
            return f"Must be a multiple of {limit}, got {value}."
        case "minItems" | "maxItems" | "minLength" | "maxLength" | "minProperties" | "maxProperties":
            bound = "at least" if str(error.validator).startswith("min") else "at most"
            what = {"Items": "items", "Length": "characters", "Properties": "members"}[str(error.validator)[3:]]
            return f"Must have {bound} {limit} {what}, got {len(error.instance)}."
        case "pattern":
            return f"Must match the pattern {limit}, got {value}."
        case "x-lightyard-refused":
            return f"This cannot be given in a config: {limit}."
        case _:
            return f"Expected {expected(schema)}, got {value}."


def expected(schema: Any) -> str:
    """What a value of this schema is, in words."""
    if not isinstance(schema, Mapping):
        return "nothing here"
    if "x-lightyard-expected" in schema:
        return str(schema["x-lightyard-expected"])
    if "anyOf" in schema:
        parts = list(
            dict.fromkeys(expected(branch) for branch in schema["anyOf"] if "x-lightyard-refused" not in branch)
        )
        return " or ".join(parts)
    if is_class_schema(schema):
        if CLASS in schema:
            return f"a {words_for(schema[CLASS])} as {{class_path, init_args}}"
        return f"the import path of a {words_for(expected_bases(schema))}" if TYPE in schema else "a function or class"
    if "enum" in schema:
        return "one of " + ", ".join("null" if value is None else str(value) for value in schema["enum"])
    if "const" in schema:
        return str(schema["const"])
    types = schema.get("type", ())
    words = [_TYPE_WORDS[name] for name in ([types] if isinstance(types, str) else types)]
    return " or ".join(words) or "another value"


def got(value: Any) -> str:
    """A value that came, in words, short."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"the string {value[:60]!r}" + ("…" if len(value) > 60 else "")
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    return str(value)


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


def _additional(validator: Validator, rest: Any, value: Any, schema: Mapping[str, Any]) -> Iterator[ValidationError]:
    if not isinstance(value, dict):
        return
    known = schema.get("properties", {})
    for key, item in value.items():
        if key in known:
            continue
        if rest is False:
            code = schema.get("x-lightyard-unknown", "unknown_argument")
            yield Problem(code, f"There is no {key[:100]!r} here.{did_you_mean(key, known)}", [key])
        else:
            yield from validator.descend(item, rest, path=key)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint at the known name that is close to this one, or at all of them where they are few."""
    names = list(known)
    close = difflib.get_close_matches(name[:100], names, n=1, cutoff=0.6)
    if close:
        return f" Did you mean {close[0]}?"
    if 0 < len(names) <= 8:
        return f" Known are {', '.join(names)}."
    return ""


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


_STRICT = extend(
    Draft202012Validator, {"required": _required, "additionalProperties": _additional}, type_checker=_STRICT_TYPES
)
_LENIENT = extend(
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
    if isinstance(entry, Unresolved):
        # A bare word that is no class may be meant for another alternative, as `simple` is for `profiler`.
        yield Problem(entry.code, entry.message, spec.name_path, wrong_shape=spec.is_bare and "." not in spec.name)
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
    given = {name: _read_collection(validator, item, arguments, name) for name, item in spec.args.items()}
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
            hint = " Put it under init_args." if key in parameters else did_you_mean(key, sorted(WRAPPER))
            yield Problem("unknown_field", f"There is no {key[:100]!r} beside class_path.{hint}", [key])


def _read_collection(validator: Validator, value: Any, arguments: Mapping[str, Any], name: str) -> Any:
    """A list or an object that is written as a string, where no string is expected."""
    if not isinstance(value, str) or (read := yaml_collection(value)) is None:
        return value
    schema = arguments.get("properties", {}).get(name, {})
    return value if validator.evolve(schema=schema).is_valid(value) else read
