"""A stretch of a metric series as one value of the database: its columns packed one behind the other.

A row per point costs a hundred bytes and an index entry each; packed, a point that comes at a steady pace costs 12.
"""

import math
import struct
import sys
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

POINTS_MAX = 256
"""Points of a full chunk: of a long series, whole chunks are shown as one point each."""
PLACES_KEPT = 128
"""Chunks of which is kept what they share with those of other names, at some kilobytes each: of 32,768 steps."""
HEAD = struct.Struct("<BIqqqi")
"""Flags, points, first step, stride of the steps, earliest moment in microseconds, epoch; all is little-endian."""
STEPS_LISTED, EPOCHS_LISTED, MOMENTS_WIDE = 1, 2, 4
NO_EPOCH = -1
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class Columns:
    """Points of one series by column, in order of their steps; `at` in microseconds of unix time."""

    steps: "array[int]"
    epochs: "array[int]"
    values: "array[float]"
    at: "array[int]"

    @classmethod
    def empty(cls) -> "Columns":
        """No points."""
        return cls(array("q"), array("i"), array("d"), array("q"))

    def __len__(self) -> int:
        return len(self.steps)

    def add(self, step: int, epoch: int | None, value: float, at: datetime) -> None:
        """Append a point."""
        self.steps.append(step)
        self.epochs.append(NO_EPOCH if epoch is None else epoch)
        self.values.append(value)
        self.at.append(microseconds(at))

    def extend(self, other: "Columns") -> None:
        """Append points that come after these."""
        self.steps.extend(other.steps)
        self.epochs.extend(other.epochs)
        self.values.extend(other.values)
        self.at.extend(other.at)

    def part(self, start: int, end: int) -> "Columns":
        """The points from one index to before another."""
        return Columns(self.steps[start:end], self.epochs[start:end], self.values[start:end], self.at[start:end])

    def in_order(self, *, first_counts: bool = False) -> "Columns":
        """The same by ascending steps, one point a step: of several, the one added last (or first)."""
        steps = self.steps
        if _ascend(steps.tobytes()):
            return self
        indices = range(len(steps))
        newest = {steps[index]: index for index in (reversed(indices) if first_counts else indices)}
        order = [newest[step] for step in sorted(newest)]
        return Columns(
            array("q", [steps[index] for index in order]),
            array("i", [self.epochs[index] for index in order]),
            array("d", [self.values[index] for index in order]),
            array("q", [self.at[index] for index in order]),
        )

    def chunks(self) -> Iterator["Columns"]:
        """The same in pieces of at most `POINTS_MAX`."""
        for start in range(0, len(self), POINTS_MAX):
            yield self.part(start, start + POINTS_MAX)

    def epoch(self, index: int) -> int | None:
        """The epoch of a point."""
        found = self.epochs[index]
        return None if found == NO_EPOCH else found

    def extremes(self, start: int = 0, end: int | None = None) -> tuple[float | None, float | None]:
        """Least and greatest value of some points, NaN left out; None: nothing else."""
        values = self.values[start:end]
        if math.isnan(sum(values)):  # NaN, or infinities of both signs
            values = array("d", [value for value in values if not math.isnan(value)])
        return (min(values), max(values)) if values else (None, None)


def microseconds(at: datetime) -> int:
    """A moment as `Columns.at` has it."""
    since = at - EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def moment(of_unix_time: int) -> datetime:
    """A moment of `Columns.at`."""
    return EPOCH + timedelta(microseconds=of_unix_time)


@lru_cache(maxsize=1)
def _ascend(steps: bytes) -> bool:
    """Whether each of these numbers is greater than the one before. What is logged at the same steps asks the same."""
    numbers = array("q", steps)
    return all(map(int.__lt__, numbers, numbers[1:]))


def pack(columns: Columns) -> bytes:
    """Points, at least one, as bytes."""
    return _packed_places(columns.steps.tobytes(), columns.epochs.tobytes(), columns.at.tobytes()) + (
        _portable(columns.values).tobytes()
    )


@lru_cache(maxsize=PLACES_KEPT)
def _packed_places(steps_bytes: bytes, epochs_bytes: bytes, at_bytes: bytes) -> bytes:
    """All of a chunk but its values. Each name that is logged at the same steps has the same of it."""
    steps, epochs, at = array("q", steps_bytes), array("i", epochs_bytes), array("q", at_bytes)
    count, first, since, flags = len(steps), steps[0], min(at), 0
    stride = steps[1] - first if count > 1 else 1
    parts: list[array[Any]] = []
    if steps[-1] != first + stride * (count - 1) or steps != array("q", range(first, steps[-1] + 1, stride)):
        flags |= STEPS_LISTED
        parts.append(steps)
    if epochs.count(epochs[0]) != count:
        flags |= EPOCHS_LISTED
        parts.append(epochs)
    if max(at) - since < 2**32:
        parts.append(array("I", [one - since for one in at]))
    else:
        flags |= MOMENTS_WIDE
        parts.append(at)
    head = HEAD.pack(flags, count, first, stride, since, epochs[0])
    return head + b"".join(_portable(part).tobytes() for part in parts)


def unpack(data: bytes) -> Columns:
    """The points of bytes that `pack` made."""
    flags, count, first, stride, since, epoch = HEAD.unpack_from(data)
    rest = memoryview(data)[HEAD.size :]

    def column(kind: str) -> "array[Any]":
        nonlocal rest
        found = array(kind)
        size_bytes = found.itemsize * count
        found.frombytes(rest[:size_bytes])
        rest = rest[size_bytes:]
        return _portable(found)

    steps = column("q") if flags & STEPS_LISTED else array("q", range(first, first + stride * count, stride))
    epochs = column("i") if flags & EPOCHS_LISTED else array("i", [epoch]) * count
    at = column("q") if flags & MOMENTS_WIDE else array("q", [since + one for one in column("I")])
    values = array("d")
    values.frombytes(rest)
    return Columns(steps, epochs, _portable(values), at)


def _portable(numbers: "array[Any]") -> "array[Any]":
    """The same in little-endian order, from this machine's, or the other way round."""
    if sys.byteorder == "big":
        numbers = numbers[:]
        numbers.byteswap()
    return numbers
