"""JSON values as they are read: the limits they keep, and what cannot be taken, each at its pointer."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from core.errors import BadRequest, BodyTooLarge, Fault

# What a 64-bit integer holds; larger ones have no home in a database or in most clients.
INTEGER_MIN, INTEGER_MAX = -(2**63), 2**63 - 1


@dataclass(frozen=True, slots=True)
class Bad:
    """Stands in the tree for a value that was read and cannot be taken."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Limits:
    """How deep a document may nest, and how many values it may hold, aliases expanded."""

    depth: int
    nodes: int

    def check_depth(self, depth: int) -> None:
        """Raise BadRequest past the depth."""
        if depth > self.depth:
            raise BadRequest(f"The body is nested deeper than {self.depth} levels.", code="too_deep")

    def check_nodes(self, nodes: int) -> None:
        """Raise BodyTooLarge past the count."""
        if nodes > self.nodes:
            raise BodyTooLarge(
                f"The body holds more than {self.nodes} values, aliases expanded.", code="too_many_values"
            )


def escape(key: str) -> str:
    """`key` as one token of a JSON pointer (RFC 6901)."""
    return key.replace("~", "~0").replace("/", "~1")


def faults_in(value: Any, pointer: str) -> Iterator[Fault]:
    """What in `value`, which stands at `pointer`, cannot be taken."""
    if isinstance(value, Bad):
        yield Fault(pointer, value.code, value.message)
    elif isinstance(value, str):
        if problem := string_problem(value):
            yield Fault(pointer, "bad_string", f"The string holds {problem}, which cannot be stored: remove it.")
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from faults_in(item, f"{pointer}/{escape(key)}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from faults_in(item, f"{pointer}/{index}")


_SURROGATE = re.compile("[\ud800-\udfff]")


def string_problem(text: str) -> str | None:
    """What keeps `text` from being stored as UTF-8 text by PostgreSQL, if anything."""
    if "\0" in text:
        return "a NUL character"
    if _SURROGATE.search(text):
        return "a lone surrogate"
    return None


def integer(value: int) -> int | Bad:
    """The integer, if it fits into 64 bits."""
    if INTEGER_MIN <= value <= INTEGER_MAX:
        return value
    return Bad("number_too_large", "This integer does not fit into 64 bits.")


def number(value: float, text: str) -> float | Bad:
    """The number that `text` wrote, if it is finite."""
    if math.isfinite(value):
        return value
    return Bad(
        "not_finite", f'{text[:40]} is not a finite number; where a parameter takes infinity, write ".inf" in quotes.'
    )


def object_of(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    """An object from its members, with what is wrong with a key standing as its value."""
    result: dict[str, Any] = {}
    for key, value in pairs:
        if isinstance(key, Bad):
            result[f"?{len(result)}"] = key
        elif problem := string_problem(key):
            result[key.encode("unicode_escape", "backslashreplace").decode("ascii")] = Bad(
                "bad_key", f"This key holds {problem}."
            )
        elif key in result:
            result[key] = Bad("duplicate_key", f"The key {key!r} stands here more than once.")
        else:
            result[key] = value
    return result
