"""What a trainer reports: records appended to the spool, numbers kept in the progress file."""

import math
import mmap
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from workers.rundir import PROGRESS

FLUSH_SECONDS = 0.2
FLUSH_BYTES = 256 * 1024


class Spool:
    """The append-only record of a run, one JSON object a line, buffered for at most `FLUSH_SECONDS` of training."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
        self._lines: list[bytes] = []
        self._size_bytes = 0
        self._flushed_at = time.monotonic()
        self._checks_sanity = False
        self.epoch: int | None = None
        """The epoch under which values stand, where it is not the one that they are reported with."""

    def metrics(self, values: Mapping[str, float], step: int, epoch: int | None) -> None:
        """Report logged values of one step; those of the sanity check are none."""
        if self._checks_sanity:
            return
        told = {name: value if math.isfinite(value) else str(value) for name, value in values.items()}
        epoch = epoch if self.epoch is None else self.epoch
        self._add({"is": "metrics", "at": time.time(), "step": step, "epoch": epoch, "values": told})
        self.flush_if_due()

    def phase(self, phase: str) -> None:
        """Report what the run does from now on."""
        self._checks_sanity = phase == "sanity_checking"
        self._add({"is": "phase", "at": time.time(), "phase": phase})
        self.flush()

    def event(self, event_type: str, at: float | None = None, **data: Any) -> None:
        """Report something that happened, by default just now. `at` in unix seconds."""
        self._add({"is": "event", "at": at or time.time(), "type": event_type, "data": data})
        self.flush()

    def summary(self, summary: Mapping[str, Any]) -> None:
        """Report what the run turned out to be."""
        self._add({"is": "summary", "at": time.time(), "summary": summary})
        self.flush()

    def checkpoint(self, **data: Any) -> None:
        """Report a finished checkpoint file in the outbox."""
        self._add({"is": "checkpoint", "at": time.time(), **data})
        self.flush()

    def checkpoint_removed(self, name: str) -> None:
        """Report that the run no longer keeps a checkpoint."""
        self._add({"is": "checkpoint_removed", "at": time.time(), "name": name})
        self.flush()

    def artifact(self, file: str, name: str) -> None:
        """Report a finished file in the outbox that is an artifact from now on."""
        self._add({"is": "artifact", "at": time.time(), "file": file, "name": name})
        self.flush()

    def flush_if_due(self) -> None:
        """Write what is buffered once it is old or large; called every step."""
        if self._lines and (time.monotonic() - self._flushed_at > FLUSH_SECONDS or self._size_bytes > FLUSH_BYTES):
            self.flush()

    def flush(self) -> None:
        """Write what is buffered. Raises `OSError`, on a full disk for instance: what is not written stays buffered."""
        if self._lines:
            data = memoryview(b"".join(self._lines))
            try:
                while data:
                    data = data[os.write(self._descriptor, data) :]
            finally:
                self._lines[:] = [bytes(data)] if data else []
                self._size_bytes = len(data)
        self._flushed_at = time.monotonic()

    def _add(self, record: Mapping[str, Any]) -> None:
        line = orjson.dumps(record) + b"\n"
        self._lines.append(line)
        self._size_bytes += len(line)


class ProgressFile:
    """The progress of a run in a mapped file: writing it every step costs no system call."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), PROGRESS.size)
        self._sequence = 0

    def write(self, *, epoch: int, global_step: int, batches: int, max_steps: int, max_batches: int = -1) -> None:
        """Tell how far the run is; `max_steps` and `max_batches` -1 where that many are not known."""
        values = (time.time(), epoch, global_step, batches, max_steps, max_batches)
        PROGRESS.pack_into(self._map, 0, self._sequence + 1, *values)
        self._sequence += 2
        PROGRESS.pack_into(self._map, 0, self._sequence, *values)
