"""What the lines of a spool say, checked: user code can write into the run directory, so nothing is taken on trust."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

import orjson

from core.metrics import Point, readable
from core.states import Phase
from workers.rundir import storable

STEP_MAX = 2**63 - 1
EPOCH_MAX = 2**31 - 1


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


Record = Happened | Entered | Saved | Removed | list[Point]


def read_record(line: bytes) -> Record:
    """What a line says; metrics are a list of points. Raises `RecordError` for anything that is not as it should be."""
    try:
        record = orjson.loads(line)
        at = datetime.fromtimestamp(record["at"], UTC)
        match record["is"]:
            case "metrics":
                step, epoch = _whole(record["step"], STEP_MAX), record["epoch"]
                epoch = None if epoch is None else _whole(epoch, EPOCH_MAX)
                return [Point(_name(name), step, epoch, float(value), at) for name, value in record["values"].items()]
            case "event":
                if not isinstance(record["data"], dict):
                    raise RecordError("an event's data are no object")
                return Happened(_text(record["type"], 40), at, record["data"])
            case "phase":
                return Entered(Phase(record["phase"]))
            case "checkpoint":
                return Saved(
                    at=at,
                    file=PurePosixPath(_text(record["file"], 255)).name,
                    name=_relative(record["name"]),
                    kind=_text(record["kind"], 20),
                    step=_whole(record["step"], STEP_MAX),
                    epoch=_whole(record["epoch"], EPOCH_MAX),
                    metrics={_name(name): readable(float(value)) for name, value in record["metrics"].items()},
                    best=bool(record["best"]),
                )
            case "checkpoint_removed":
                return Removed(_relative(record["name"]))
            case other:
                raise RecordError(f"no record is a {other!r}")
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, OSError) as error:
        raise RecordError(repr(error)) from error


def _whole(value: Any, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise RecordError(f"{value!r} is no number from 0 to {most}")
    return value


def _text(value: Any, characters: int) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= characters:
        raise RecordError(f"{str(value)[:50]!r} is no text of 1 to {characters} characters")
    return str(storable(value))


def _name(value: str) -> str:
    return str(storable(value))[:255]


def _relative(value: Any) -> str:
    path = PurePosixPath(_text(value, 255))
    if path.is_absolute() or ".." in path.parts:
        raise RecordError(f"{value!r} leads outside the run's checkpoints")
    return path.as_posix()
