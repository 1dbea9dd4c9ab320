"""Files that a module logs while it trains: written into the outbox, reported, and from then on artifacts."""

import hashlib
import re
from collections import Counter
from pathlib import Path

from workers.trainer.spool import Spool

PER_TAG_MAX = 100
"""Of one tag; what is logged later under it takes the place of `newest`, so that the end of a run is seen too."""
_PART_CHARACTERS = 60
_TAG_CHARACTERS = 160
_UNSAFE = re.compile(r"[^\w.,=+@()\[\] -]")


class Full(Exception):
    """No more of them is kept."""


class LoggedFiles:
    """Where logged files go: `<kind>/<tag>/step-00000042.png`, at most `max_count` files and `max_bytes` in all."""

    def __init__(self, spool: Spool, outbox: Path, max_count: int, max_bytes: int) -> None:
        self._spool = spool
        self._outbox = outbox
        self._max_count = max_count
        self._bytes_left = max_bytes
        self._max_bytes = max_bytes
        self._written = 0
        self._names: set[str] = set()
        self._of_tag: Counter[str] = Counter()

    def add(self, kind: str, tag: str, step: int, suffix: str, data: bytes) -> None:
        """Keep a file; one of the same kind, tag and step takes the place of the one before.

        Raises `Full` where there is no room for it by the limits, and `OSError` where the disk has none.
        """
        folder = f"{kind}/{safe(tag)}"
        name = f"{folder}/step-{step:08d}{suffix}"
        if name not in self._names and self._of_tag[folder] >= PER_TAG_MAX:
            name = f"{folder}/newest{suffix}"
        if name not in self._names and len(self._names) >= self._max_count:
            raise Full(f"{self._max_count} files of this attempt are kept already (LIGHTYARD_LOGGED_FILES_MAX_COUNT)")
        if len(data) > self._bytes_left:
            raise Full(f"{self._max_bytes} bytes are kept of an attempt (LIGHTYARD_LOGGED_FILES_MAX_BYTES)")
        file = self._outbox / f"logged-{self._written + 1:06d}"
        try:
            file.write_bytes(data)
        except OSError:
            file.unlink(missing_ok=True)
            raise
        self._written += 1
        self._bytes_left -= len(data)
        if name not in self._names:
            self._names.add(name)
            self._of_tag[folder] += 1
        self._spool.artifact(file.name, name)


def safe(tag: str) -> str:
    """A tag as a path below the artifacts; one that had to be changed for that is told apart by its digest."""
    parts = [_UNSAFE.sub("_", part)[:_PART_CHARACTERS].strip() for part in tag.split("/")]
    path = "/".join(part for part in parts if part.strip("."))[:_TAG_CHARACTERS].rstrip("/")
    if path == tag:
        return path
    digest = hashlib.sha256(tag.encode("utf-8", "replace")).hexdigest()[:8]
    return f"{path}-{digest}" if path else digest
