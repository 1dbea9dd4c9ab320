"""The states of a job as a table; every guard in SQL is derived from it."""

from enum import StrEnum


class Status(StrEnum):
    """Where a job stands. A wish to cancel or pause is not a status but a request beside it."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Phase(StrEnum):
    """What a running job is doing."""

    STARTING = "starting"
    PREPARING = "preparing"
    SANITY_CHECKING = "sanity_checking"
    TRAINING = "training"
    VALIDATING = "validating"
    TESTING = "testing"
    PREDICTING = "predicting"
    SAVING = "saving"


class ReasonCode(StrEnum):
    """Why a job, or an attempt of it, ended as it did."""

    USER_ERROR = "user_error"
    DATA_ERROR = "data_error"  # raised by prepare_data
    OOM = "oom"
    OUT_OF_DISK = "out_of_disk"
    TIMEOUT = "timeout"
    WORKER_LOST = "worker_lost"
    PREEMPTED = "preempted"
    DIVERGED = "diverged"
    CANCELLED_BY_USER = "cancelled_by_user"
    EARLY_STOPPED = "early_stopped"
    MAX_ATTEMPTS = "max_attempts"
    CHECKPOINT_LOST = "checkpoint_lost"
    NO_SUCH_DEVICE = "no_such_device"  # announced by the worker, and not found by its trainer


class Seat(StrEnum):
    """Where a further machine of an attempt on several stands."""

    CALLED = "called"  # its devices are taken, its worker has not answered
    JOINED = "joined"
    LEAVING = "leaving"  # its worker is told to stop
    ENDED = "ended"


class CheckpointKind(StrEnum):
    """Why a checkpoint was saved."""

    MODEL_CHECKPOINT = "model_checkpoint"  # by the run's own ModelCheckpoint
    RECOVERY = "recovery"  # to go on from
    REQUESTED = "requested"  # a caller asked for it
    MANUAL = "manual"  # by the run's own `trainer.save_checkpoint`
    STOP = "stop"  # where a cancelled job stopped


TRANSITIONS: dict[Status, frozenset[Status]] = {
    Status.QUEUED: frozenset({Status.RUNNING, Status.PAUSED, Status.CANCELLED}),
    Status.RUNNING: frozenset(
        {Status.QUEUED, Status.PAUSED, Status.SUCCEEDED, Status.FAILED, Status.CANCELLED},
    ),
    Status.PAUSED: frozenset({Status.QUEUED, Status.CANCELLED}),
    Status.SUCCEEDED: frozenset(),
    Status.FAILED: frozenset(),
    Status.CANCELLED: frozenset(),
}
"""From each status, those it may move to."""

ACTIONS: dict[Status, tuple[str, ...]] = {
    Status.QUEUED: ("cancel", "pause"),
    Status.RUNNING: ("cancel", "pause", "checkpoints"),
    Status.PAUSED: ("cancel", "resume"),
}
"""What a caller may ask of a job that has not ended."""

FINAL = frozenset(status for status, targets in TRANSITIONS.items() if not targets)
"""Nothing moves a job out of these."""


def sources(target: Status) -> frozenset[Status]:
    """The statuses from which a job may move to `target`."""
    return frozenset(status for status, targets in TRANSITIONS.items() if target in targets)


def allowed_actions(status: Status) -> tuple[str, ...]:
    """What a caller may ask of a job in this status, as the API names it."""
    return ACTIONS.get(status, ("retry", "delete"))
