"""Preemption: a job of higher priority takes the devices of running ones, which save, stop and go on later."""

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Connection, select, update

from core import events
from core.claims import available
from core.database import Database
from core.devices import Announced, free_by_kind, offered, runnable
from core.jobs import touch
from core.states import Status
from core.tables import attempts, device_claims, jobs, workers

LOOK = 50
"""How many of the first queued jobs a worker considers."""


class Preemption:
    """Makes room on a worker for a queued job that its running ones keep waiting."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def make_room(
        self, worker_id: str, older_than_seconds: float, fits: Callable[[Sequence[str]], bool]
    ) -> Sequence[str]:
        """Ask running jobs of a worker to stop for the first queued one that would then fit; returns their ids.

        Only jobs of lower priority are asked, the lowest and youngest first, and none where that would not be enough.
        A job has room made for it in one place at a time, and once it has waited so long that no worker has any.
        """
        with self._database.write() as connection:
            announced = connection.execute(
                select(workers.c.devices).where(workers.c.id == worker_id).with_for_update()
            ).scalar_one_or_none()
            kinds = free_by_kind(announced or [])
            if announced is None or not any(kinds.values()):
                return []
            now = self._database.now(connection)
            waiting = (jobs.c.status == Status.QUEUED) & available(now, older_than_seconds) & runnable(kinds)
            first = select(jobs).where(waiting).order_by(jobs.c.priority.desc(), jobs.c.id).limit(LOOK)
            for row in connection.execute(first).all():
                if not fits(row.class_paths):
                    continue
                chosen = _least_important(connection, worker_id, announced, row)
                mine = select(jobs.c.id).where(jobs.c.id == row.id, waiting).with_for_update(skip_locked=True)
                if not chosen or connection.execute(mine).first() is None or _has_room_coming(connection, row.id):
                    continue
                for attempt in chosen:
                    stop = update(attempts).where(attempts.c.token == attempt.token).values(preempted_for=row.id)
                    touch(connection, attempt.job_id, token=attempt.token)
                    connection.execute(stop)
                    # Who it is for is another project's affair where it is another project's job.
                    by = {"by": row.id} if attempt.project_id == row.project_id else {}
                    events.append(connection, attempt.job_id, "preempt_requested", now, **by)
                return [attempt.job_id for attempt in chosen]
        return []


def _has_room_coming(connection: Connection, job_id: str) -> bool:
    query = select(attempts.c.token).where(attempts.c.preempted_for == job_id, attempts.c.ended_at.is_(None))
    return connection.execute(query).first() is not None


def _least_important(connection: Connection, worker_id: str, announced: Announced, job: Any) -> Sequence[Any]:
    """The live attempts of a worker that must go for a job to fit; none where that cannot be, or need not."""
    taken = select(device_claims.c.device).where(device_claims.c.worker_id == worker_id)
    free = offered(free_by_kind(announced, set(connection.execute(taken).scalars())), job.accelerator)
    usable = set(offered(free_by_kind(announced), job.accelerator))
    missing = job.devices - len(free)
    below = (
        select(attempts.c.job_id, attempts.c.token, attempts.c.devices, jobs.c.project_id)
        .join(jobs, jobs.c.token == attempts.c.token)
        .where(
            attempts.c.worker_id == worker_id,
            attempts.c.ended_at.is_(None),
            attempts.c.preempted_for.is_(None),
            jobs.c.priority < job.priority,
            jobs.c.cancel_requested_at.is_(None),
            jobs.c.pause_requested_at.is_(None),
        )
        .order_by(jobs.c.priority, attempts.c.started_at.desc())
    )
    chosen = []
    for attempt in connection.execute(below).all() if missing > 0 else []:
        if missing > 0 and usable.intersection(attempt.devices):
            chosen.append(attempt)
            missing -= len(usable.intersection(attempt.devices))
    return chosen if missing <= 0 else []
