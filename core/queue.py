"""The queue as its users see it: what waits, in what order, and why."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, and_, func, or_, select

from core.claims import CLOCK_STEP_SECONDS
from core.database import Database
from core.devices import Announced, free_by_kind, offered
from core.job import Job, as_job
from core.repertoire import Repertoire
from core.states import FINAL, Status
from core.tables import jobs, workers

POSITION_MAX = 10_000


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
        ahead = select(jobs.c.id).where(
            jobs.c.status == Status.QUEUED,
            or_(jobs.c.priority > job.priority, and_(jobs.c.priority == job.priority, jobs.c.id < job.id)),
        )
        now = self._database.now(connection)
        position = connection.execute(
            select(func.count()).select_from(ahead.limit(POSITION_MAX).subquery())
        ).scalar_one()
        waiting = _waiting(job, position, _live_devices(connection, now, silence_seconds), now)
        lacking = self._repertoire.lacking(connection, [job], now, silence_seconds)
        return _for_class(waiting, lacking.get(job.id))

    def waiting_of(self, queued: Sequence[Job], silence_seconds: float) -> dict[str, Waiting]:
        """What each of some queued jobs waits for, by job id, in one look at the queue."""
        if not queued:
            return {}
        places = (
            select(jobs.c.id, func.row_number().over(order_by=(jobs.c.priority.desc(), jobs.c.id)).label("place"))
            .where(jobs.c.status == Status.QUEUED)
            .order_by(jobs.c.priority.desc(), jobs.c.id)
            .limit(POSITION_MAX)
            .subquery()
        )
        query = select(places).where(places.c.id.in_([job.id for job in queued]))
        with self._database.read() as connection:
            now = self._database.now(connection)
            positions = {row.id: row.place - 1 for row in connection.execute(query)}
            devices = _live_devices(connection, now, silence_seconds)
            lacking = self._repertoire.lacking(connection, queued, now, silence_seconds)
        waiting = {job.id: _waiting(job, positions.get(job.id, POSITION_MAX), devices, now) for job in queued}
        return {job_id: _for_class(one, lacking.get(job_id)) for job_id, one in waiting.items()}

    def queue(self, project_id: str, limit: int, *, after: tuple[int, str] | None = None) -> Sequence[Job]:
        """The queued jobs of a project in the order in which they would be claimed, from behind `after` on.

        `after` is the priority and the id of a job.
        """
        query = (
            select(jobs)
            .where(jobs.c.project_id == project_id, jobs.c.status == Status.QUEUED)
            .order_by(jobs.c.priority.desc(), jobs.c.id)
            .limit(limit)
        )
        if after is not None:
            priority, job_id = after
            query = query.where(or_(jobs.c.priority < priority, and_(jobs.c.priority == priority, jobs.c.id > job_id)))
        with self._database.read() as connection:
            return [as_job(row) for row in connection.execute(query)]


def _live_devices(connection: Connection, now: datetime, silence_seconds: float) -> Sequence[Announced]:
    query = select(workers.c.devices).where(
        workers.c.stopped_at.is_(None), workers.c.heartbeat_at > now - timedelta(seconds=silence_seconds)
    )
    return connection.execute(query).scalars().all()


def _for_class(waiting: Waiting, lacked: str | None) -> Waiting:
    """What it waits for, if that is a worker with one of its classes."""
    if lacked is None:
        return waiting
    return Waiting(waiting.position, f"no worker that is up and has its devices announces {lacked}")


def _waiting(job: Job, position: int, live: Sequence[Announced], now: datetime) -> Waiting:
    counts = [len(offered(free_by_kind(devices), job.accelerator)) for devices in live]
    fitting = sum(count >= job.devices for count in counts)
    each = f"{job.devices} device(s) of kind {job.accelerator!r}"
    if not live:
        reason = "no worker is up"
    elif job.nodes > 1 and fitting < job.nodes:
        reason = f"it needs {job.nodes} machines with {each} each: {fitting} of those that are up have as many"
    elif not fitting:
        reason = f"no worker that is up has {each}"
    elif now < job.available_at <= now + timedelta(seconds=CLOCK_STEP_SECONDS):
        reason = "backing off after a lost attempt"
    elif position:
        reason = f"{position} job(s) ahead in the queue"
    elif job.nodes > 1:
        reason = f"waiting for {job.nodes} machines with {each} free at once"
    else:
        reason = "waiting for a free device"
    return Waiting(position=position, reason=reason)
