"""Jobs and their events as callers see them."""

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from app.schemas.resource import FaultOut, Number, Resource
from core.events import Event
from core.job import Attempt, Job
from core.queue import Waiting


class ReasonOut(Resource):
    """Why a job ended as it did."""

    code: str
    message: str
    traceback: str | None = None


class ProgressOut(Resource):
    """How far a running job is. `global_step` counts optimizer steps, as Lightning does."""

    epoch: int | None = None
    global_step: int | None = None
    max_steps: int | None = None
    fraction: Number | None = None
    steps_per_second: Number | None = None
    eta_seconds: Number | None = None


class AttemptOut(Resource):
    """One try at running a job."""

    number: int
    worker: str
    devices: list[str]
    started_at: datetime
    ended_at: datetime | None
    outcome: str | None
    resumed_from: str | None
    steps_lost: int | None
    resume: Literal["exact", "epoch", "restart"] | None

    @classmethod
    def of(cls, attempt: Attempt) -> "AttemptOut":
        """The attempt as callers see it: without its token."""
        return cls.model_validate(attempt, from_attributes=True)


class LimitsOut(Resource):
    """What a job may use at most; `max_seconds` over all its attempts. `retry_oom`: as a lost worker is."""

    max_seconds: float
    max_attempts: int
    max_memory_bytes: int | None
    retry_oom: bool


class WaitingOut(Resource):
    """What a queued job waits for."""

    position: int = Field(description="How many jobs are ahead of it.")
    reason: str


class JobOut(Resource):
    """A training job."""

    id: str
    name: str | None
    labels: dict[str, str]
    project: str
    parent_id: str | None
    subcommand: Literal["fit", "validate", "test", "predict"]
    dry_run: bool
    stop_on_nan: bool
    start_checkpoint_id: str | None = Field(description="Where it started from, as Lightning's `ckpt_path`.")
    weights_checkpoint_id: str | None = Field(description="Whose weights it started with.")
    status: Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"]
    phase: str | None
    reason: ReasonOut | None
    progress: ProgressOut | None
    attempt: int
    attempts: list[AttemptOut]
    metrics: dict[str, Number] = Field(description="The newest value of each metric.")
    best_checkpoint_id: str | None
    last_checkpoint_id: str | None
    config: dict[str, Any]
    summary: dict[str, Any] | None = Field(description="What its trainer found it to be, once it has been set up.")
    priority: int
    limits: LimitsOut
    version: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    cancel_requested_at: datetime | None
    pause_requested_at: datetime | None
    checkpoint_requested_at: datetime | None
    waiting: WaitingOut | None = Field(description="While queued.")

    @classmethod
    def of(cls, job: Job, project: str, waiting: Waiting | None) -> "JobOut":
        """The job as callers see it."""
        return cls(
            id=job.id,
            name=job.name,
            labels=job.labels,
            project=project,
            parent_id=job.parent_id,
            subcommand=job.subcommand,
            dry_run=job.dry_run,
            stop_on_nan=job.stop_on_nan,
            start_checkpoint_id=job.start_checkpoint_id,
            weights_checkpoint_id=job.weights_checkpoint_id,
            status=job.status.value,
            phase=job.phase,
            reason=ReasonOut(**job.reason) if job.reason else None,
            progress=ProgressOut(**job.progress) if job.progress else None,
            attempt=job.attempt,
            attempts=[AttemptOut.of(attempt) for attempt in job.attempts_list],
            metrics=job.metrics,
            best_checkpoint_id=job.best_checkpoint_id,
            last_checkpoint_id=job.last_checkpoint_id,
            config=job.config,
            summary=job.summary,
            priority=job.priority,
            limits=LimitsOut(
                max_seconds=job.max_seconds,
                max_attempts=job.max_attempts,
                max_memory_bytes=job.max_memory_bytes,
                retry_oom=job.retry_oom,
            ),
            version=job.version,
            created_at=job.created_at,
            started_at=job.started_at,
            finished_at=job.finished_at,
            cancel_requested_at=job.cancel_requested_at,
            pause_requested_at=job.pause_requested_at,
            checkpoint_requested_at=job.checkpoint_requested_at,
            waiting=WaitingOut(position=waiting.position, reason=waiting.reason) if waiting else None,
        )


class ValidationOut(Resource):
    """What is wrong with a job, if anything, and its config with every default filled in."""

    valid: bool
    errors: list[FaultOut]
    config: dict[str, Any] | None


class EventOut(Resource):
    """One thing that happened to a job."""

    id: str
    type: str
    at: datetime
    data: dict[str, Any]

    @classmethod
    def of(cls, event: Event) -> "EventOut":
        """The event as callers see it."""
        return cls(id=str(event.id), type=event.type, at=event.at, data=event.data)
