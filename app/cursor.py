"""Cursors: where the next page of one list begins, opaque to callers."""

import base64
import binascii
import hashlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import orjson

from core.errors import BadRequest
from core.values import string_problem

T = TypeVar("T")
CHECK_BYTES = 9
CURSOR_MAX_CHARACTERS = 2000


def cut(rows: Sequence[T], limit: int, listing: str, sort_key: Callable[[T], Any]) -> tuple[Sequence[T], str | None]:
    """The rows of a page, out of one more than its limit, and the cursor behind them where there are more."""
    shown = rows[:limit]
    return shown, encode(sort_key(shown[-1]), listing) if len(rows) > limit else None


def encode(after: Any, listing: str) -> str:
    """A cursor behind the row with the sort key `after`; `listing` names the list with its filters."""
    payload = orjson.dumps(after)
    return base64.urlsafe_b64encode(_check(payload, listing) + payload).decode().rstrip("=")


def decode(text: str, listing: str, kind: type[T]) -> T:
    """The sort key in a cursor that `encode` made for the same list and filters.

    Raises `BadRequest`. Whoever takes pains can forge one; so its value is checked, and names nothing that is not
    also reached by turning pages.
    """
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        check, payload = raw[:CHECK_BYTES], raw[CHECK_BYTES:]
        if len(text) > CURSOR_MAX_CHARACTERS or check != _check(payload, listing):
            raise _bad()
        after = orjson.loads(payload)
    except (binascii.Error, ValueError) as error:
        raise _bad() from error
    if type(after) is not kind or (isinstance(after, str) and string_problem(after)):
        raise _bad()
    return after


def _bad() -> BadRequest:
    return BadRequest(
        "This cursor is not one of this list with these filters. Use `next_cursor` of the page before, unchanged, "
        "or leave `cursor` out to begin anew.",
        code="bad_cursor",
    )


def _check(payload: bytes, listing: str) -> bytes:
    return hashlib.sha256(listing.encode() + b"\0" + payload).digest()[:CHECK_BYTES]
