"""What a dry run found, as callers see it."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, ValidationError

from app.schemas.jobs import ReasonOut, SummaryOut, WaitingOut
from app.schemas.resource import Number, Resource
from core.events import Event
from core.job import Job
from core.queue import Waiting

TRIED = "tried"
"""The event by which a trial run tells what it did."""
PHASES_MAX = 10
WARNINGS_MAX = 20


class TriedOut(Resource):
    """A phase that was tried."""

    phase: Literal["training", "validating", "testing", "predicting"]
    ok: bool
    batches: int
    seconds: float | None = Field(description="Null where it did not come to its end.")
    metrics: dict[str, Number] = Field(description="What was logged by its end.")


class DryRunOut(Resource):
    """What trying one batch of everything found."""

    job_id: str
    status: Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"]
    ok: bool | None = Field(description="Null until it has ended.")
    phases: list[TriedOut]
    warnings: list[str] = Field(description="What Lightning does not look for in a trial, and would find in the run.")
    reason: ReasonOut | None
    summary: SummaryOut | None
    seconds: float | None = Field(description="From its start to its end.")
    log: str = Field(description="The end of what was printed.")
    waiting: WaitingOut | None = Field(description="While queued.")

    @classmethod
    def of(cls, job: Job, events: Sequence[Event], log: str, waiting: Waiting | None) -> "DryRunOut":
        """The report of a job's newest attempt."""
        tried: dict[str, Any] = next((event.data for event in reversed(events) if event.type == TRIED), {})
        ended = job.finished_at if job.started_at is not None else None
        return cls(
            job_id=job.id,
            status=job.status.value,
            ok=job.status == "succeeded" if job.is_final else None,
            phases=_phases(tried.get("phases")),
            warnings=[str(one) for one in _list(tried.get("warnings"))[:WARNINGS_MAX]],
            reason=ReasonOut(**job.reason) if job.reason else None,
            summary=SummaryOut(**job.summary) if job.summary else None,
            seconds=(ended - job.started_at).total_seconds() if ended is not None and job.started_at else None,
            log=log,
            waiting=WaitingOut(position=waiting.position, reason=waiting.reason) if waiting else None,
        )


def _phases(told: Any) -> list[TriedOut]:
    """The user's code may have written the event: what is no phase is left out."""
    found = []
    for one in _list(told)[:PHASES_MAX]:
        try:
            found.append(TriedOut.model_validate(one | {"ok": one.get("seconds") is not None}))
        except (ValidationError, TypeError, AttributeError):
            continue
    return found


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
