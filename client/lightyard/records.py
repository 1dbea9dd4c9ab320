"""What the service returns, typed. Every record keeps the answer it was read from in `raw`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from lightyard.errors import Fault

Raw = Mapping[str, Any]

FINAL = frozenset({"succeeded", "failed", "cancelled"})


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a job is in its state: a stable code, a sentence, and the trainer's traceback where it raised."""

    code: str
    message: str
    traceback: str | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far training is. `fraction` is 0 to 1; `global_step` counts optimizer steps, as Lightning does."""

    epoch: int | None = None
    global_step: int | None = None
    max_steps: int | None = None
    fraction: float | None = None
    steps_per_second: float | None = None
    eta_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One run of a job on a worker; `resume` is exact, epoch or restart. `outcome` says how it ended, None: it runs."""

    number: int
    worker: str | None
    outcome: str | None
    resumed_from: str | None
    steps_lost: int | None
    resume: str | None
    started_at: datetime | None
    ended_at: datetime | None
    raw: Raw = field(repr=False, compare=False)

    @classmethod
    def from_raw(cls, raw: Raw) -> "Attempt":
        """Read one member of a job's `attempts`."""
        return cls(
            number=integer(raw.get("number")) or 0,
            worker=raw.get("worker"),
            outcome=raw.get("outcome"),
            resumed_from=raw.get("resumed_from"),
            steps_lost=integer(raw.get("steps_lost")),
            resume=raw.get("resume"),
            started_at=instant(raw.get("started_at")),
            ended_at=instant(raw.get("ended_at")),
            raw=raw,
        )


@dataclass(frozen=True, slots=True)
class Job:
    """A training job as it was when asked. `metrics` are the latest values, by name.

    `etag` names this version in a conditional request; `replayed` tells that an earlier submit with the same
    idempotency key had made the job.
    """

    id: str
    name: str | None
    status: str
    phase: str | None
    reason: Reason | None
    progress: Progress
    metrics: Mapping[str, float]
    labels: Mapping[str, str]
    attempt: int | None
    attempts: tuple[Attempt, ...]
    best_checkpoint_id: str | None
    last_checkpoint_id: str | None
    priority: int | None
    parent_id: str | None
    version: int | None
    created_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    cancel_requested_at: datetime | None
    pause_requested_at: datetime | None
    checkpoint_requested_at: datetime | None
    etag: str | None = None
    replayed: bool = False
    raw: Raw = field(repr=False, compare=False, default_factory=dict)

    @property
    def ended(self) -> bool:
        """Whether the job has reached a state that nothing moves any more."""
        return self.status in FINAL

    @property
    def succeeded(self) -> bool:
        """Whether the job ended well."""
        return self.status == "succeeded"

    @classmethod
    def from_raw(cls, raw: Raw, *, etag: str | None = None, replayed: bool = False) -> "Job":
        """Read a job; what is missing or unknown is left out."""
        reason, progress = raw.get("reason"), raw.get("progress") or {}
        metrics = {name: number(value) for name, value in (raw.get("metrics") or {}).items()}
        return cls(
            id=str(raw["id"]),
            name=raw.get("name"),
            status=str(raw.get("status", "unknown")),
            phase=raw.get("phase"),
            reason=Reason(str(reason.get("code", "")), str(reason.get("message", "")), reason.get("traceback"))
            if reason
            else None,
            progress=Progress(
                epoch=integer(progress.get("epoch")),
                global_step=integer(progress.get("global_step")),
                max_steps=integer(progress.get("max_steps")),
                fraction=number(progress.get("fraction")),
                steps_per_second=number(progress.get("steps_per_second")),
                eta_seconds=number(progress.get("eta_seconds")),
            ),
            metrics={name: value for name, value in metrics.items() if value is not None},
            labels=raw.get("labels") or {},
            attempt=integer(raw.get("attempt")),
            attempts=tuple(Attempt.from_raw(one) for one in raw.get("attempts") or ()),
            best_checkpoint_id=raw.get("best_checkpoint_id"),
            last_checkpoint_id=raw.get("last_checkpoint_id"),
            priority=integer(raw.get("priority")),
            parent_id=raw.get("parent_id"),
            version=integer(raw.get("version")),
            created_at=instant(raw.get("created_at")),
            started_at=instant(raw.get("started_at")),
            finished_at=instant(raw.get("finished_at")),
            cancel_requested_at=instant(raw.get("cancel_requested_at")),
            pause_requested_at=instant(raw.get("pause_requested_at")),
            checkpoint_requested_at=instant(raw.get("checkpoint_requested_at")),
            etag=etag,
            replayed=replayed,
            raw=raw,
        )


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric of a job in short: how many points, over which steps, and its last and extreme values."""

    name: str
    count: int
    first_step: int | None
    last_step: int | None
    last: float | None
    min: float | None
    max: float | None
    raw: Raw = field(repr=False, compare=False)

    @classmethod
    def from_raw(cls, raw: Raw) -> "Metric":
        """Read one row of a job's metrics."""
        return cls(
            name=str(raw["name"]),
            count=integer(raw.get("count")) or 0,
            first_step=integer(raw.get("first_step")),
            last_step=integer(raw.get("last_step")),
            last=number(raw.get("last")),
            min=number(raw.get("min")),
            max=number(raw.get("max")),
            raw=raw,
        )


@dataclass(frozen=True, slots=True)
class Point:
    """A metric at a step; where points were bucketed, `min` and `max` are the bucket's extremes."""

    step: int
    epoch: int | None
    value: float | None
    min: float | None
    max: float | None
    at: datetime | None


@dataclass(frozen=True, slots=True)
class Series:
    """A metric's points in order of step; `downsampled` tells that there were more than were asked for."""

    name: str
    points: tuple[Point, ...]
    downsampled: bool
    raw: Raw = field(repr=False, compare=False)

    @classmethod
    def from_raw(cls, raw: Raw) -> "Series":
        """Read a metric's series."""
        points = tuple(
            Point(
                step=integer(one.get("step")) or 0,
                epoch=integer(one.get("epoch")),
                value=number(one.get("value")),
                min=number(one.get("min")),
                max=number(one.get("max")),
                at=instant(one.get("at")),
            )
            for one in raw.get("points") or ()
        )
        return cls(str(raw.get("name", "")), points, bool(raw.get("downsampled")), raw)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that a job has saved; `sha256` is the file's, in hex."""

    id: str
    name: str | None
    kind: str | None
    step: int | None
    epoch: int | None
    metrics: Mapping[str, float]
    size_bytes: int
    sha256: str
    created_at: datetime | None
    is_best: bool
    is_last: bool
    pinned: bool
    raw: Raw = field(repr=False, compare=False)

    @classmethod
    def from_raw(cls, raw: Raw) -> "Checkpoint":
        """Read one of a job's checkpoints."""
        metrics = {name: number(value) for name, value in (raw.get("metrics") or {}).items()}
        return cls(
            id=str(raw["id"]),
            name=raw.get("name"),
            kind=raw.get("kind"),
            step=integer(raw.get("step")),
            epoch=integer(raw.get("epoch")),
            metrics={name: value for name, value in metrics.items() if value is not None},
            size_bytes=integer(raw.get("size_bytes")) or 0,
            sha256=str(raw.get("sha256", "")),
            created_at=instant(raw.get("created_at")),
            is_best=bool(raw.get("is_best")),
            is_last=bool(raw.get("is_last")),
            pinned=bool(raw.get("pinned")),
            raw=raw,
        )


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a job, once and for ever."""

    id: str
    type: str
    at: datetime | None
    data: Raw
    raw: Raw = field(repr=False, compare=False)

    @classmethod
    def from_raw(cls, raw: Raw) -> "Event":
        """Read one event."""
        return cls(str(raw.get("id", "")), str(raw.get("type", "")), instant(raw.get("at")), raw.get("data") or {}, raw)


@dataclass(frozen=True, slots=True)
class Validation:
    """What the service says of a spec without running it; `config` has every default filled in."""

    valid: bool
    faults: tuple[Fault, ...]
    config: Raw | None
    raw: Raw = field(repr=False, compare=False)

    @classmethod
    def from_raw(cls, raw: Raw) -> "Validation":
        """Read the answer of a validation."""
        faults = tuple(Fault.from_raw(one) for one in raw.get("errors") or ())
        return cls(bool(raw.get("valid")), faults, raw.get("config"), raw)


def number(value: object) -> float | None:
    """A number as the service writes it: one that is not finite comes as "NaN", "Infinity" or "-Infinity"."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def integer(value: object) -> int | None:
    """A whole number, or None for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def instant(value: object) -> datetime | None:
    """An RFC 3339 time, or None for anything else."""
    try:
        return datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
