"""JSON values as they are read: the limits they keep, and what cannot be taken, each at its pointer."""

import itertools
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from core.errors import BadRequest, BodyTooLarge, Fault

# What a 64-bit integer holds; larger ones have no home in a database or in most clients.
INTEGER_MIN, INTEGER_MAX = -(2**63), 2**63 - 1

FAULTS_MAX = 100
"""Nobody corrects more at once, and each costs time to find, to put into words and to send."""
TOO_MANY = "too_many_faults"
KEY_CHARACTERS_MAX = 500
"""Every fault below a key repeats it in its pointer."""


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


def at_most(faults: Iterable[Fault]) -> list[Fault]:
    """The first `FAULTS_MAX` faults; where there are more, a last one says so where the search stopped.

    Nothing is looked for behind it.
    """
    found = list(itertools.islice(faults, FAULTS_MAX + 1))
    if len(found) > FAULTS_MAX:
        message = f"There are more faults than these {FAULTS_MAX}: the search stopped here. Correct these first."
        found[FAULTS_MAX] = Fault(found[FAULTS_MAX].pointer, TOO_MANY, message)
    return found


def faults_in(value: Any) -> Iterator[Fault]:
    """What in `value`, the whole of a body, cannot be taken."""
    return _faults_in(value, [])


def _faults_in(value: Any, path: list[Any]) -> Iterator[Fault]:
    """The pointer is written only for a fault: with long keys, it may be longer than all that is below them."""
    if isinstance(value, Bad):
        yield Fault(_pointer(path), value.code, value.message)
    elif isinstance(value, str):
        if problem := string_problem(value):
            yield Fault(_pointer(path), "bad_string", f"The string holds {problem}, which cannot be stored: remove it.")
    elif isinstance(value, (dict, list)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(item, (Bad, str, dict, list)):
                path.append(key)
                yield from _faults_in(item, path)
                path.pop()


def _pointer(path: list[Any]) -> str:
    return "".join(f"/{escape(str(key))}" for key in path)


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
        elif len(key) > KEY_CHARACTERS_MAX:
            message = f"This key has {len(key)} characters; at most {KEY_CHARACTERS_MAX} are read."
            result[f"?{len(result)}"] = Bad("bad_key", message)
        elif problem := string_problem(key):
            result[key.encode("unicode_escape", "backslashreplace").decode("ascii")] = Bad(
                "bad_key", f"This key holds {problem}."
            )
        elif key in result:
            result[key] = Bad("duplicate_key", f"The key {key[:100]!r} stands here more than once.")
        else:
            result[key] = value
    return result
