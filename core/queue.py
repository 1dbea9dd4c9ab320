"""The queue as its users see it: what waits, in what order, and why."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import and_, func, or_, select

from core.database import Database
from core.devices import free_by_kind, offered
from core.jobs import Job, as_job
from core.states import Status
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

    def queued_count(self, project_id: str, limit: int) -> int:
        """How many jobs of a project are queued, counted up to `limit`."""
        inner = select(jobs.c.id).where(jobs.c.project_id == project_id, jobs.c.status == Status.QUEUED).limit(limit)
        with self._database.read() as connection:
            count: int = connection.execute(select(func.count()).select_from(inner.subquery())).scalar_one()
            return count

    def waiting(self, job: Job, silence_seconds: float) -> Waiting:
        """What a queued job waits for."""
        ahead = select(jobs.c.id).where(
            jobs.c.status == Status.QUEUED,
            or_(jobs.c.priority > job.priority, and_(jobs.c.priority == job.priority, jobs.c.id < job.id)),
        )
        with self._database.read() as connection:
            now = self._database.now(connection)
            position = connection.execute(
                select(func.count()).select_from(ahead.limit(POSITION_MAX).subquery())
            ).scalar_one()
            live = connection.execute(
                select(workers.c.devices).where(
                    workers.c.stopped_at.is_(None), workers.c.heartbeat_at > now - timedelta(seconds=silence_seconds)
                )
            ).scalars()
            most = max((len(offered(free_by_kind(devices), job.accelerator)) for devices in live), default=None)
        if most is None:
            reason = "no worker is up"
        elif most < job.devices:
            reason = f"no worker that is up has {job.devices} device(s) of kind {job.accelerator!r}"
        elif job.available_at > now:
            reason = "backing off after a lost attempt"
        elif position:
            reason = f"{position} job(s) ahead in the queue"
        else:
            reason = "waiting for a free device"
        return Waiting(position=position, reason=reason)

    def queue(self, project_id: str, limit: int) -> Sequence[Job]:
        """The queued jobs of a project in the order in which they would be claimed."""
        query = (
            select(jobs)
            .where(jobs.c.project_id == project_id, jobs.c.status == Status.QUEUED)
            .order_by(jobs.c.priority.desc(), jobs.c.id)
            .limit(limit)
        )
        with self._database.read() as connection:
            return [as_job(row) for row in connection.execute(query)]
