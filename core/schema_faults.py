"""Errors of a JSON Schema as faults: every one, in words, at its pointer."""

import difflib
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from jsonschema.exceptions import ValidationError

from core.catalog import words_for
from core.class_values import CLASS, TYPE, expected_bases, is_class_schema
from core.errors import Fault
from core.values import escape

_HINTS_MAX = 30
"""A hint takes milliseconds to look for; who has more faults than this sent something else than a slip of the pen."""
_WORD_CHARACTERS_MAX = 64
"""Longer than any argument's name: nothing longer is compared with them."""
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
    not meant. `hint` looks for what may have been meant; of many problems, only the first are asked.
    """

    def __init__(
        self,
        code: str,
        message: str,
        path: Iterable[str] = (),
        *,
        wrong_shape: bool = False,
        hint: Callable[[], str] = str,
    ) -> None:
        super().__init__(message, path=tuple(path))
        self.code = code
        self.wrong_shape = wrong_shape
        self.hint = hint


def faults_of(validator: Any, value: Any, pointer: str) -> Iterator[Fault]:
    """The faults of `value`, which stands at `pointer`: each is looked for when the one before it has been taken."""
    hints = itertools.count()
    return (fault for error in validator.iter_errors(value) for fault in _faults(error, pointer, hints))


def _faults(error: ValidationError, pointer: str, hints: Iterator[int]) -> Iterator[Fault]:
    if error.validator == "anyOf":
        if branch := _meant_branch(error):
            for inner in branch:
                yield from _faults(inner, pointer, hints)
            return
        code = "not_allowed" if _mentions_enum(error) else "wrong_type"
        message = f"Expected {expected(error.schema)}, got {got(error.instance)}."
    elif isinstance(error, Problem):
        code, message = error.code, error.message
        if error.hint is not str and next(hints) < _HINTS_MAX:
            message += error.hint()
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
        fitting = [errors for errors in branches.values() if any(map(_tells, errors))]
    return min(fitting, key=len, default=[])


def _tells(error: ValidationError) -> bool:
    if isinstance(error, Problem):
        return error.code in {"unknown_class", "wrong_kind", "ambiguous_class"}
    return error.validator == "x-lightyard-refused"


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
    is_length = error.validator in {"minLength", "maxLength"}
    if isinstance(schema, Mapping) and "x-lightyard-expected" in schema and not is_length:
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
            count = len(error.instance) if isinstance(error.instance, (str, list, dict)) else 0
            return f"Must have {bound} {limit} {what if limit != 1 else what[:-1]}, got {count}."
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
            return f"{words_for(schema[CLASS])} as {{class_path, init_args}}"
        return f"the import path of {words_for(expected_bases(schema))}" if TYPE in schema else "a function or class"
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


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint at the known name that is close to this one, or at all of them where they are few."""
    names = tuple(known)
    if close := _closest(name, names):
        return f" Did you mean {close}?"
    if 0 < len(names) <= 8:
        return f" Known are {', '.join(names)}."
    return ""


@functools.lru_cache(maxsize=1_000)
def _closest(name: str, names: tuple[str, ...]) -> str | None:
    if len(name) > _WORD_CHARACTERS_MAX:
        return None
    return next(iter(difflib.get_close_matches(name, names, n=1, cutoff=0.6)), None)
