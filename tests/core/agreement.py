"""What of the database is held against the model, and how."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import select

from core.database import Database
from core.job import Job
from core.states import Status
from core.tables import attempts, checkpoints, device_claims, events, jobs
from tests.core.model import ModelJob

TABLES = [
    (table, select(table).order_by(*order))
    for table, order in (
        (jobs, [jobs.c.id]),
        (attempts, [attempts.c.job_id, attempts.c.number]),
        (device_claims, [device_claims.c.worker_id, device_claims.c.device]),
        (events, [events.c.id]),
        (checkpoints, [checkpoints.c.id]),
    )
]

HIDDEN = {"token", "version", "seconds_spent", "available_at", "cancel_forced", "checkpoint_requests", "attempts_spent"}
HIDDEN_OF_ATTEMPT = {"token", "lease_seconds", "renewals", "spool_offset", "preempted_for"}
"""What no answer of the API shows: a change of it alone needs no new version."""


def everything(database: Database) -> dict[str, Sequence[Any]]:
    """All rows of the tables that verbs write, by table, at one moment."""
    with database.read() as connection:
        return {table.name: connection.execute(query).all() for table, query in TABLES}


def visible(job: Job) -> dict[str, Any]:
    shown = {name: value for name, value in asdict(job).items() if name not in HIDDEN}
    shown["attempts_list"] = [
        {name: value for name, value in one.items() if name not in HIDDEN_OF_ATTEMPT} for one in shown["attempts_list"]
    ]
    return shown


def check_job(job: ModelJob, row: Any) -> None:
    there = (row.status, row.attempt, row.attempts_spent, row.token, row.last_checkpoint_id)
    assert there == (job.status, job.attempt, job.spent, job.token, job.last)
    moments = (row.cancel_requested_at, row.pause_requested_at, row.checkpoint_requested_at, row.finished_at)
    assert [at is not None for at in moments] == [job.cancel, job.pause, job.save, job.is_final]
    assert (row.cancel_forced, row.checkpoint_requests) == (job.force, job.saves)
    assert (row.token is not None) == (row.phase is not None) == (job.status is Status.RUNNING)


def check_attempts(job: ModelJob, rows: list[Any]) -> None:
    assert [(row.number, row.outcome) for row in rows] == list(enumerate(job.outcomes, 1))
    live = [row.token for row in rows if row.ended_at is None]
    assert live == ([job.token] if job.status is Status.RUNNING else [])


def by_job(rows: Sequence[Any]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for row in rows:
        found.setdefault(row.job_id, []).append(row)
    return found
