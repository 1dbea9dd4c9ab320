"""Weights of checkpoints as safetensors files: a few read at a time, and remembered for who comes back for the rest."""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property

import anyio
from anyio import CapacityLimiter

from app.content import CHUNK_BYTES, StoredFile
from core.checkpoints import Checkpoint
from core.errors import Unavailable
from core.storage import Store
from core.weights import LAYOUT, Export, Weights

AT_ONCE = 2
"""A checkpoint's pickle is read in Python, which takes seconds for a very large one: other calls go on meanwhile."""
WAITING_MAX = 50
KEPT = 8
DIGEST_BYTES_MAX = 64 * 2**20
"""Up to this size the sha256 is found before the answer; a larger file would keep the caller waiting for it."""


@dataclass(frozen=True, slots=True)
class Known:
    """What has been found out about a checkpoint's weights; `sha256` is of the safetensors file."""

    export: Export
    sha256: str | None


class Exports:
    """The exports that one process gives."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: OrderedDict[str, Known] = OrderedDict()
        self._waiting = 0

    @cached_property
    def _limiter(self) -> CapacityLimiter:
        return CapacityLimiter(AT_ONCE)

    async def open(self, checkpoint: Checkpoint) -> tuple[Weights, str | None]:
        """A checkpoint's weights, to be read and closed, and their sha256 where they are not too large for that.

        Raises `NotFound` where its file is gone, `Invalid` where it cannot be exported, and `Unavailable`.
        """
        if self._waiting >= WAITING_MAX:
            raise Unavailable(
                f"{WAITING_MAX} requests wait for weights here already: try again later.",
                code="too_many_waiters",
                retry_after_seconds=5,
            )
        self._waiting += 1
        try:
            return await anyio.to_thread.run_sync(self._open, checkpoint, limiter=self._limiter)
        finally:
            self._waiting -= 1

    def _open(self, checkpoint: Checkpoint) -> tuple[Weights, str | None]:
        stored = StoredFile.open(self._store, checkpoint.storage_key, checkpoint.size_bytes)
        try:
            known = self._known.get(checkpoint.sha256) or self._find_out(stored, checkpoint)
        except OSError as error:
            stored.close()
            raise Unavailable("The store of checkpoints is away: try again later.", code="store_unavailable") from error
        except BaseException:
            stored.close()
            raise
        return Weights(stored.file, known.export), known.sha256

    def _find_out(self, stored: StoredFile, checkpoint: Checkpoint) -> Known:
        export = Export.of(stored.file.fileno(), checkpoint.size_bytes)
        known = Known(export, _sha256(Weights(stored.file, export)))
        self._known[checkpoint.sha256] = known
        while len(self._known) > KEPT:
            self._known.popitem(last=False)
        return known


def tag(checkpoint: Checkpoint) -> str:
    """The ETag of a checkpoint's weights, which its own bytes and the layout decide."""
    return f'"{checkpoint.sha256}-safetensors-{LAYOUT}"'


def _sha256(weights: Weights) -> str | None:
    if weights.export.size_bytes > DIGEST_BYTES_MAX:
        return None
    digest = hashlib.sha256()
    for offset in range(0, weights.export.size_bytes, CHUNK_BYTES):
        digest.update(weights.read(offset, CHUNK_BYTES))
    return digest.hexdigest()
