"""Names of things: a prefix that tells the kind and a time-ordered, unguessable rest."""

import re
import secrets
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32, lower case: no i, l, o, u
_REST = re.compile(f"[{_ALPHABET}]{{26}}")


def new_id(prefix: str) -> str:
    """A new id such as `job_01jd…`: 48 bits of milliseconds, then 80 random bits (the layout of a ULID)."""
    number = (int(time.time() * 1000) << 80) | secrets.randbits(80)
    letters = []
    for _ in range(26):
        number, digit = divmod(number, 32)
        letters.append(_ALPHABET[digit])
    return f"{prefix}_{''.join(reversed(letters))}"


def is_id(prefix: str, text: str) -> bool:
    """Whether `text` has the form of an id of that kind; it need not exist."""
    head, _, tail = text.partition("_")
    return head == prefix and _REST.fullmatch(tail) is not None
