"""Preemption: a job of higher priority takes the devices of running ones, which save, stop and go on later."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, func, select, update

from core import events
from core.assembly import Assembly, goes_with
from core.claims import available
from core.database import Database
from core.devices import free_by_kind, offered, runnable
from core.jobs import touch
from core.tables import WAITING, attempts, device_claims, jobs, workers

LOOK = 50
"""How many of the first queued jobs a worker considers."""


class Preemption:
    """Makes room on a worker for a queued job that its running ones keep waiting."""

    def __init__(self, database: Database, assembly: Assembly | None = None) -> None:
        self._database = database
        self._assembly = assembly or Assembly(15.0, 30.0, 3600.0)

    def make_room(
        self, worker_id: str, older_than_seconds: float, fits: Callable[[Sequence[str]], bool]
    ) -> Sequence[str]:
        """Ask running jobs of a worker to stop for the first queued one that would then fit; returns their ids.

        Only jobs of lower priority are asked, the lowest and youngest first, and none where that would not be enough.
        A job has room made for it in one place at a time, and once it has waited so long that no worker has any. One of
        several machines has room made on all of them, or on none, and only while devices are kept free for it.
        """
        with self._database.write() as connection:
            announced = connection.execute(
                select(workers.c.devices).where(workers.c.id == worker_id).with_for_update()
            ).scalar_one_or_none()
            kinds = free_by_kind(announced or [])
            if announced is None or not any(kinds.values()):
                return []
            now = self._database.now(connection)
            waiting = WAITING & available(now, older_than_seconds) & runnable(kinds)
            waiting &= jobs.c.dry_run.is_(False)  # first in the queue, but no reason to stop a training
            hold = self._assembly.hold(connection, now)
            free_kinds = free_by_kind(announced, _taken(connection, worker_id))
            first = select(jobs).where(waiting).order_by(jobs.c.priority.desc(), jobs.c.id).limit(LOOK)
            for row in connection.execute(first).all():
                if not fits(row.class_paths):
                    continue
                if row.nodes > 1:
                    if hold is None or hold.job_id != row.id:
                        continue  # what becomes free on one machine would go to others before the next has room
                    chosen = self._least_important_together(connection, worker_id, row, now)
                else:
                    free = offered(free_kinds, row.accelerator)
                    usable = offered(kinds, row.accelerator)
                    chosen = _least_important(connection, worker_id, usable, row.devices - len(free), row)
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

    def _least_important_together(
        self, connection: Connection, worker_id: str, job: Any, now: datetime
    ) -> Sequence[Row[Any]]:
        """The live attempts that must go for a job to fit on this machine and on as many others as it needs."""
        machines = self._assembly.machines(connection, job.accelerator, job.class_paths, now)
        own = next((one for one in machines if one.worker_id == worker_id), None)
        if own is None:
            return []
        places: list[tuple[int, str, Sequence[Row[Any]]]] = []
        for one in machines:
            missing = job.devices - len(one.free)
            going = _least_important(connection, one.worker_id, one.devices, missing, job)
            if goes_with(one, own) and len(one.devices) >= job.devices and (going or missing <= 0):
                places.append((-1 if one is own else len(going), one.worker_id, going))
        if not places or min(places)[0] != -1 or len(places) < job.nodes:
            return []
        chosen = {attempt.token: attempt for *_, going in sorted(places)[: job.nodes] for attempt in going}
        return list(chosen.values())


def _has_room_coming(connection: Connection, job_id: str) -> bool:
    query = select(attempts.c.token).where(attempts.c.preempted_for == job_id, attempts.c.ended_at.is_(None))
    return connection.execute(query).first() is not None


def _least_important(
    connection: Connection, worker_id: str, usable: Sequence[str], missing: int, job: Any
) -> Sequence[Row[Any]]:
    """The live attempts that must go for so many devices to become free; none where that cannot be, or need not."""
    here = (device_claims.c.job_id == attempts.c.job_id) & (device_claims.c.attempt == attempts.c.number)
    below = (
        select(attempts.c.job_id, attempts.c.token, jobs.c.project_id, func.count().label("held"))
        .join(jobs, jobs.c.token == attempts.c.token)
        .join(device_claims, here)
        .where(
            device_claims.c.worker_id == worker_id,
            device_claims.c.device.in_(usable),
            attempts.c.ended_at.is_(None),
            attempts.c.preempted_for.is_(None),
            jobs.c.priority < job.priority,
            jobs.c.cancel_requested_at.is_(None),
            jobs.c.pause_requested_at.is_(None),
        )
        .group_by(attempts.c.job_id, attempts.c.token, jobs.c.project_id, jobs.c.priority, attempts.c.started_at)
        .order_by(jobs.c.priority, attempts.c.started_at.desc())
    )
    chosen = []
    for attempt in connection.execute(below).all() if missing > 0 else []:
        if missing > 0:
            chosen.append(attempt)
            missing -= attempt.held
    return chosen if missing <= 0 else []


def _taken(connection: Connection, worker_id: str) -> set[str]:
    query = select(device_claims.c.device).where(device_claims.c.worker_id == worker_id)
    return set(connection.execute(query).scalars())
