"""What the lines of a spool say, checked: user code can write into the run directory, so nothing is taken on trust."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import orjson

from core.metrics import Logged, readable
from core.states import Phase
from workers.rundir import Progress, storable
from workers.statements import read_summary

READ_BYTES = 4 * 2**20
STEP_MAX = 2**63 - 1
EPOCH_MAX = 2**31 - 1
NAME_BYTES_MAX = 255
"""What a file system takes as the name of a file."""
FILE_CHARACTERS = 100
FLOATS = frozenset([float])
NAME_CHARACTERS = 255


class RecordError(ValueError):
    """A line that no trainer of ours writes."""


@dataclass(frozen=True, slots=True)
class Happened:
    """An event of the run."""

    type: str
    at: datetime
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Entered:
    """The phase that the run is in from here on."""

    phase: Phase


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint file in the outbox; `name` is its path among the run's checkpoints."""

    at: datetime
    file: str
    name: str
    kind: str
    step: int
    epoch: int
    metrics: dict[str, float | str]
    best: bool


@dataclass(frozen=True, slots=True)
class Removed:
    """A checkpoint that the run no longer keeps."""

    name: str


@dataclass(frozen=True, slots=True)
class Kept:
    """A file in the outbox that is an artifact of the job from now on, by its name."""

    file: str
    name: str


@dataclass(frozen=True, slots=True)
class Described:
    """What the run turned out to be, as `workers.statements.read_summary` has it."""

    summary: dict[str, Any]


Record = Described | Kept | Happened | Entered | Saved | Removed | Logged


class Line(NamedTuple):
    """A line of a spool, from byte `start` to byte `end`: its record, or why it has none."""

    start: int
    end: int
    record: Record | None
    refused: str = ""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Some of a spool's whole lines, read as they are asked for, and whether there may be more behind them."""

    lines: Iterator[Line]
    more: bool


@dataclass(slots=True)
class Batch:
    """What one transaction writes: all that the spool says up to byte `offset`."""

    offset: int
    logged: list[Logged] = field(default_factory=list)
    point_count: int = 0
    happened: list[tuple[str, datetime, dict[str, Any]]] = field(default_factory=list)
    phase: str | None = None
    summary: dict[str, Any] | None = None
    progress: Progress | None = None

    def add(self, line: Line) -> None:
        """Take a line in; what it says of files is not for the database."""
        self.offset = line.end
        if isinstance(line.record, Logged):
            self.logged.append(line.record)
            self.point_count += len(line.record.values)
        elif isinstance(line.record, Happened):
            self.happened.append((line.record.type, line.record.at, line.record.data))
        elif isinstance(line.record, Entered):
            self.phase = line.record.phase
        elif isinstance(line.record, Described):
            self.summary = line.record.summary


def read_spool(path: Path, offset: int, line_max_bytes: int) -> Stretch:
    """The lines from byte `offset` on, some megabytes of them. A spool that the run removed has none left.

    The last line may be half written: it is not among them, unless it is longer than any may be.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(max(READ_BYTES, line_max_bytes + 1))
    except FileNotFoundError:
        return Stretch(iter(()), more=False)
    return Stretch(_lines(data, offset, line_max_bytes), more=len(data) >= max(READ_BYTES, line_max_bytes + 1))


def record_at(path: Path, offset: int, line_max_bytes: int) -> Record | None:
    """The record of the line that begins at byte `offset`; None: there is none."""
    line = next(read_spool(path, offset, line_max_bytes).lines, None)
    return line.record if line is not None else None


def read_record(line: bytes) -> Record:
    """What a line says. Raises `RecordError` for anything that is not as it should be."""
    try:
        record = orjson.loads(line)
        at = datetime.fromtimestamp(record["at"], UTC)
        match record["is"]:
            case "metrics":
                step, epoch, values = _whole(record["step"], STEP_MAX), record["epoch"], record["values"]
                epoch = None if epoch is None else _whole(epoch, EPOCH_MAX)
                renamed = _renamed(tuple(values))
                if renamed is not None or not FLOATS.issuperset(map(type, values.values())):
                    names = renamed or values
                    values = dict(zip(names, map(float, values.values()), strict=True))
                return Logged(step, epoch, at, values)
            case "event":
                if not isinstance(record["data"], dict):
                    raise RecordError("an event's data are no object")
                return Happened(_text(record["type"], 40), at, record["data"])
            case "phase":
                return Entered(Phase(record["phase"]))
            case "checkpoint":
                return Saved(
                    at=at,
                    file=_file(record["file"]),
                    name=_relative(record["name"]),
                    kind=_text(record["kind"], 20),
                    step=_whole(record["step"], STEP_MAX),
                    epoch=_whole(record["epoch"], EPOCH_MAX),
                    metrics={_name(name): readable(float(value)) for name, value in record["metrics"].items()},
                    best=bool(record["best"]),
                )
            case "summary":
                return Described(read_summary(record["summary"]))
            case "artifact":
                return Kept(_file(record["file"]), _relative(record["name"]))
            case "checkpoint_removed":
                return Removed(_relative(record["name"]))
            case other:
                raise RecordError(f"no record is a {other!r}")
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, OSError) as error:
        raise RecordError(repr(error)) from error


def _lines(data: bytes, start: int, line_max_bytes: int) -> Iterator[Line]:
    lines = data.split(b"\n")
    tail = lines.pop()
    for text in lines:
        end = start + len(text) + 1
        try:
            yield Line(start, end, read_record(text))
        except RecordError as error:
            yield Line(start, end, None, str(error))
        start = end
    if len(tail) > line_max_bytes:
        yield Line(start, start + len(tail), None, f"longer than {line_max_bytes} bytes")


def _whole(value: Any, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise RecordError(f"{value!r} is no number from 0 to {most}")
    return value


def _text(value: Any, characters: int) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= characters:
        raise RecordError(f"{str(value)[:50]!r} is no text of 1 to {characters} characters")
    return str(storable(value))


def _name(value: str) -> str:
    """The name of a metric; cut first, for it is remembered."""
    return _storable_name(value[:NAME_CHARACTERS])


@lru_cache(maxsize=32)
def _renamed(names: tuple[str, ...]) -> tuple[str, ...] | None:
    """What the names of a line become; None: they stay. Most lines of a run have the same; a line may have a megabyte,
    so few are remembered.
    """
    kept = tuple(map(_name, names))
    return None if kept == names else kept


@lru_cache(maxsize=4096)
def _storable_name(value: str) -> str:
    """A run logs the same few names again and again: looking at each letter of them took a third of all reading."""
    return str(storable(value))[:NAME_CHARACTERS]


def _file(value: Any) -> str:
    name = _text(value, FILE_CHARACTERS)
    if not name.isascii() or "/" in name or name.startswith("."):
        raise RecordError(f"{name!r} is no file of the outbox")
    return name


def _bytes(text: str) -> int:
    return len(text.encode())


def _relative(value: Any) -> str:
    path = PurePosixPath(_text(value, 255))
    if path.is_absolute() or ".." in path.parts or not path.parts or max(map(_bytes, path.parts)) > NAME_BYTES_MAX:
        raise RecordError(f"{value!r} names no file of the run's checkpoints")
    return path.as_posix()
