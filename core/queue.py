"""The queue as its users see it: what waits, in what order, and why."""

import threading
import time
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Integer, Row, bindparam, func, select, union_all

from core.claims import CLOCK_STEP_SECONDS
from core.database import Database
from core.devices import free_by_kind, offered
from core.job import Job, as_job
from core.repertoire import Repertoire
from core.states import FINAL, Status
from core.tables import WAITING, jobs, workers

POSITION_MAX = 10_000
"""Nobody is told a place further back."""
COUNTED_MAX = 1_000
"""Up to here, a place is counted when it is asked for; behind it, it is as old as `ORDER_SECONDS`."""
ORDER_SECONDS = 1.0
IN_ORDER = (jobs.c.priority.desc(), jobs.c.id)
# Two questions in one, each a range of the index of the queue in its order.
_ABOVE = select(jobs.c.id).where(WAITING, jobs.c.priority > bindparam("priority"))
_OLDER = select(jobs.c.id).where(WAITING, jobs.c.priority == bindparam("priority"), jobs.c.id < bindparam("id"))
AHEAD = select(func.count()).select_from(union_all(_ABOVE, _OLDER).limit(bindparam("most", type_=Integer)).subquery())
"""Counts the jobs ahead of one, as far as `most`."""
LIVE = select(workers.c.devices, workers.c.catalog_digest).where(workers.c.stopped_at.is_(None))


@dataclass(frozen=True, slots=True)
class Waiting:
    """Why a queued job has not started: how many are ahead of it, and what it waits for."""

    position: int
    reason: str


class Queue:
    """Reads the queue."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._repertoire = Repertoire()
        self._order = Order()

    def queued_count(self, project_id: str, limit: int) -> int:
        """How many jobs of a project are queued, counted up to `limit`."""
        inner = select(jobs.c.id).where(jobs.c.project_id == project_id, jobs.c.status == Status.QUEUED).limit(limit)
        with self._database.read() as connection:
            count: int = connection.execute(select(func.count()).select_from(inner.subquery())).scalar_one()
            return count

    def live_counts(self) -> dict[str, int]:
        """How many jobs of all projects are queued, running and paused."""
        live = [status for status in Status if status not in FINAL]
        query = select(jobs.c.status, func.count()).where(jobs.c.status.in_(live)).group_by(jobs.c.status)
        with self._database.read() as connection:
            found = {row[0]: row[1] for row in connection.execute(query)}
        return {str(status): found.get(status, 0) for status in live}

    def waiting(self, job: Job, silence_seconds: float) -> Waiting:
        """What a queued job waits for."""
        with self._database.read() as connection:
            return self.waiting_in(connection, job, silence_seconds)

    def waiting_in(self, connection: Connection, job: Job, silence_seconds: float) -> Waiting:
        """As `waiting`, inside the transaction that made the job."""
        place = {"priority": job.priority, "id": job.id, "most": COUNTED_MAX}
        position = connection.execute(AHEAD, place).scalar_one()
        if position == COUNTED_MAX:
            position = max(position, self._order.place(connection, job))
        return self._explained(connection, {job.id: position}, [job], silence_seconds)[job.id]

    def waiting_of(self, queued: Sequence[Job], silence_seconds: float) -> dict[str, Waiting]:
        """What each of some queued jobs waits for, by job id, in one look at the queue."""
        if not queued:
            return {}
        place = func.row_number().over(order_by=IN_ORDER).label("place")
        first = select(jobs.c.id, place).where(WAITING).order_by(*IN_ORDER).limit(COUNTED_MAX).subquery()
        query = select(first).where(first.c.id.in_([job.id for job in queued]))
        with self._database.read() as connection:
            positions = {row.id: row.place - 1 for row in connection.execute(query)}
            for job in queued:
                if job.id not in positions:
                    positions[job.id] = max(COUNTED_MAX, self._order.place(connection, job))
            return self._explained(connection, positions, queued, silence_seconds)

    def queue(self, project_id: str, limit: int, *, after: tuple[int, str] | None = None) -> Sequence[Job]:
        """The queued jobs of a project in the order in which they would be claimed, from behind `after` on.

        `after` is the priority and the id of a job.
        """
        query = select(jobs).where(jobs.c.project_id == project_id, jobs.c.status == Status.QUEUED).order_by(*IN_ORDER)
        parts = [query]
        if after is not None:  # two questions, because in one it is no range of the index, whose directions differ
            priority, job_id = after
            parts = [query.where(jobs.c.priority == priority, jobs.c.id > job_id)]
            parts.append(query.where(jobs.c.priority < priority))
        found: list[Job] = []
        with self._database.read() as connection:
            for part in parts:
                if len(found) < limit:
                    found += [as_job(row) for row in connection.execute(part.limit(limit - len(found)))]
        return found

    def _explained(
        self, connection: Connection, positions: Mapping[str, int], queued: Sequence[Job], silence_seconds: float
    ) -> dict[str, Waiting]:
        """Why each of some jobs at these places waits."""
        query = LIVE.add_columns(self._database.clock().label("now"))
        heard_of = workers.c.heartbeat_at > self._database.clock(timedelta(seconds=silence_seconds))
        live = connection.execute(query.where(heard_of)).all()
        lacking = self._repertoire.lacking(connection, queued, [(row.devices, row.catalog_digest) for row in live])
        found = {}
        for job in queued:
            reason = _reason(job, positions[job.id], live)
            if job.id in lacking:
                reason = f"no worker that is up and has its devices announces {lacking[job.id]}"
            found[job.id] = Waiting(positions[job.id], reason)
        return found


class Order:
    """The order of the queue's first `POSITION_MAX` jobs as it was at most a second ago: places further back.

    Those at its head are counted at each question, which would take longer and longer for the others.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read_at = float("-inf")
        self._keys: Sequence[tuple[int, str]] = ()

    def place(self, connection: Connection, job: Job) -> int:
        """How many jobs are ahead of one; `POSITION_MAX`: so many or more."""
        with self._lock:
            if time.monotonic() - self._read_at > ORDER_SECONDS:
                query = select(-jobs.c.priority, jobs.c.id).where(WAITING).order_by(*IN_ORDER).limit(POSITION_MAX)
                self._keys = [(row[0], row[1]) for row in connection.execute(query)]
                self._read_at = time.monotonic()
            return bisect_left(self._keys, (-job.priority, job.id))


def _reason(job: Job, position: int, live: Sequence[Row[Any, Any, Any]]) -> str:
    if not live:
        return "no worker is up"
    now: datetime = live[0].now
    fitting = sum(len(offered(free_by_kind(row.devices), job.accelerator)) >= job.devices for row in live)
    each = f"{job.devices} device(s) of kind {job.accelerator!r}"
    if job.nodes > 1 and fitting < job.nodes:
        return f"it needs {job.nodes} machines with {each} each: {fitting} of those that are up have as many"
    if not fitting:
        return f"no worker that is up has {each}"
    if now < job.available_at <= now + timedelta(seconds=CLOCK_STEP_SECONDS):
        return "backing off after a lost attempt"
    if position:
        return f"{position} job(s) ahead in the queue"
    if job.nodes > 1:
        return f"waiting for {job.nodes} machines with {each} free at once"
    return "waiting for a free device"
