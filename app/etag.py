"""Entity tags (RFC 9110, 8.8.3 and 13): which version of a thing a caller speaks of."""

import re

_TAG = re.compile(r'(W/)?("[\x21\x23-\x7e\x80-\xff]*")')


def of_version(thing_id: str, version: int) -> str:
    """The strong tag of a thing that counts its versions."""
    return f'"{thing_id}.{version}"'


def matches_weakly(header: str | None, tag: str) -> bool:
    """Whether `If-None-Match` names the tag; `W/` makes no difference there."""
    if header is None or header == tag:  # as nearly every caller sends it
        return header is not None
    return header.strip() == "*" or tag in {found for _, found in _TAG.findall(header)}


def matches_strongly(header: str, tag: str) -> bool:
    """Whether `If-Match` names the tag; a weak one never does."""
    return header.strip() == "*" or tag in {found for weak, found in _TAG.findall(header) if not weak}
