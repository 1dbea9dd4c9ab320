"""Jobs and their events as callers see them."""

from datetime import datetime
from typing import Any, Literal

from pydantic import Field
from typing_extensions import TypedDict

from app.schemas.resource import FaultOut, Number, Resource
from core.events import Event
from core.job import Attempt, Job
from core.queue import Waiting
from core.states import Status


class ReasonData(TypedDict, total=False):
    """What a reason's message says, for programs; only what applies is there.

    Of an error, where it was raised: `stage` (a phase of the job), `epoch`, `global_step`, `batch` (from 0 within the
    epoch or the evaluation); `loss` of one that diverged; `monitor` and `known_metrics` of a monitored name that was
    never logged. Of a job that stopped early: `monitor`, `mode`, `because`, `stopped_epoch`, `score`, `best_score`.
    """

    stage: str
    epoch: int
    global_step: int
    batch: int
    loss: Number
    monitor: str
    mode: str
    because: str
    stopped_epoch: int
    score: Number
    best_score: Number
    known_metrics: list[str]


class ReasonOut(Resource):
    """Why a job ended as it did."""

    code: str
    message: str
    traceback: str | None = None
    data: ReasonData | None = Field(None, description="What the message says, for programs.")


class AccumulationOut(Resource):
    """Over how many batches gradients are summed before a step, from an epoch on."""

    from_epoch: int
    accumulate_grad_batches: int
    effective_batch_size: int | None


class SummaryOut(Resource):
    """What a job turned out to be, as its trainer found once it was set up, the newest attempt's."""

    parameters: int | None = None
    trainable_parameters: int | None = None
    batch_size: int | None = Field(None, description="Samples of one batch on one device.")
    effective_batch_size: int | None = Field(
        None, description="Samples to one optimizer step: batch size × devices × nodes × accumulate_grad_batches."
    )
    accumulation: list[AccumulationOut] = Field([], description="One entry, but for a GradientAccumulationScheduler.")
    precision_asked: str | None = Field(None, description="As the config has it.")
    precision: str | None = Field(None, description="The one in effect.")
    accelerator: str | None = None
    devices: int | None = Field(None, description="On each node.")
    nodes: int | None = None
    world_size: int | None = None
    strategy: str | None = None
    automatic_optimization: bool | None = None
    optimizers: list[str] = Field([], description="Their classes.")
    lr_schedulers: list[str] = Field([], description="Their classes.")
    hyperparameters: dict[str, dict[str, Any]] = Field(
        {}, description="What `save_hyperparameters` kept, of the `model` and of the `data`, shortened."
    )
    hyperparameters_left_out: int = Field(0, description="How many had no room.")
    sanity_steps: int | None = Field(None, description="Batches of the validation's sanity check.")
    estimated_steps: int | None = Field(None, description="Optimizer steps in all, where that can be known.")


class ProgressOut(Resource):
    """How far a running job is. `global_step` counts optimizer steps, as Lightning does."""

    epoch: int | None = None
    global_step: int | None = None
    max_steps: int | None = None
    fraction: Number | None = None
    steps_per_second: Number | None = None
    eta_seconds: Number | None = None


class MemberOut(Resource):
    """A further machine of an attempt on several."""

    node_rank: int
    worker: str
    devices: list[str]
    state: Literal["called", "joined", "leaving", "ended"]


class AttemptOut(Resource):
    """One try at running a job. `worker` and `devices` are those of its first machine."""

    number: int
    worker: str
    devices: list[str]
    started_at: datetime
    ended_at: datetime | None
    outcome: str | None
    resumed_from: str | None
    steps_lost: int | None
    resume: Literal["exact", "epoch", "restart"] | None
    members: list[MemberOut] = Field(description="The other machines of a job on several.")

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
    summary: SummaryOut | None = Field(description="What its trainer found it to be, once it has been set up.")
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
            progress=_progress(job),
            attempt=job.attempt,
            attempts=[AttemptOut.of(attempt) for attempt in job.attempts_list],
            metrics=job.metrics,
            best_checkpoint_id=job.best_checkpoint_id,
            last_checkpoint_id=job.last_checkpoint_id,
            config=job.config,
            summary=SummaryOut(**job.summary) if job.summary else None,
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


def _progress(job: Job) -> ProgressOut | None:
    if job.progress is None:
        return None
    told = ProgressOut(**job.progress)
    return told if job.status is Status.RUNNING else told.model_copy(update={"eta_seconds": None})


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
