"""Claims: which queued job a worker is given, with devices of its own, under a lease and a fencing token."""

import heapq
import secrets
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Connection, Row, Text, and_, cast, false, insert, not_, or_, select

from core import events
from core.assembly import Assembly, Machine
from core.database import Database
from core.devices import Kinds, free_by_kind, offered, runnable
from core.job import Job, as_job, read_job
from core.jobs import moved
from core.settings import BACKOFF_MAX_SECONDS
from core.states import Phase, Seat, Status
from core.tables import SEVERAL, attempts, device_claims, jobs, members, projects, workers

CLAIM_PAGE = 50
CLAIM_PAGES = 200
CLASSES = cast(jobs.c.class_paths, Text)  # the list as it is stored: JSON itself has no equality on PostgreSQL
NEEDS = (jobs.c.nodes, jobs.c.accelerator, jobs.c.devices, CLASSES)
QUEUE_COLUMNS = (
    *(jobs.c.id, jobs.c.project_id, jobs.c.priority, CLASSES.label("classes")),
    *(jobs.c.nodes, jobs.c.accelerator, jobs.c.devices),
)
CLAIMABLE_LOOK = 200
APART_MAX = 50
"""Needs of several machines that one claim finds it cannot have; then it looks at jobs of one machine only."""
CLOCK_STEP_SECONDS = 2 * BACKOFF_MAX_SECONDS
"""No backoff is so long: a job that is to wait for longer was written before the clock was set back."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A job given to a worker, with the devices and the token it holds it by.

    Of a job of several machines, `node_rank` says which of them this is; `called` are the workers of the others.
    """

    job: Job
    attempt: int
    token: str
    devices: list[str]
    spool_offset: int = 0
    node_rank: int = 0
    called: tuple[str, ...] = ()

    @property
    def world_size(self) -> int:
        """How many ranks there are on all machines."""
        return self.job.nodes * self.job.devices

    @property
    def first_rank(self) -> int:
        """The rank of the first process on this machine."""
        return self.node_rank * self.job.devices


class Claims:
    """Gives queued jobs to workers. Each verb is one transaction."""

    def __init__(self, database: Database, assembly: Assembly | None = None) -> None:
        self._database = database
        self._assembly = assembly or Assembly(15.0, 30.0, 3600.0)

    def claim(
        self, worker_id: str, worker: str, lease_seconds: float, fits: Callable[[Sequence[str]], bool]
    ) -> Claim | None:
        """Give a worker the best queued job that its free devices and its catalogue can run, or nothing.

        Best is by priority, then the project with the fewest running jobs, then age. Devices and job are taken in
        one transaction; the worker's row is locked, so that its threads take devices one after the other. A job of
        several machines is given only with devices on all of them: this worker's is the first, the others are called.
        """
        with self._database.write() as connection:
            announced = connection.execute(
                select(workers.c.devices)
                .where(workers.c.id == worker_id, workers.c.stopped_at.is_(None))
                .with_for_update()
            ).scalar_one_or_none()
            if announced is None:
                return None
            kinds = free_by_kind(announced, _taken(connection, worker_id))
            if not any(kinds.values()):
                return None
            now = self._database.now(connection)
            best = self._best(connection, worker_id, kinds, now, fits)
            if best is None:
                return None
            row, others = best
            job = as_job(row)
            devices = list(offered(kinds, job.accelerator)[: job.devices])
            number, token = job.attempt + 1, secrets.token_hex(16)
            values: dict[str, Any] = {
                "phase": Phase.STARTING,
                "attempt": number,
                "attempts_spent": job.attempts_spent + 1,
                "token": token,
                "started_at": job.started_at or now,
            }
            if not moved(connection, job.id, Status.RUNNING, **values):
                return None
            connection.execute(
                insert(attempts).values(
                    job_id=job.id,
                    number=number,
                    token=token,
                    worker_id=worker_id,
                    worker=worker,
                    devices=devices,
                    lease_seconds=lease_seconds,
                    renewals=0,
                    started_at=now,
                    spool_offset=0,
                    dismissed=False,
                )
            )
            taken = {worker_id: devices} | {one.worker_id: list(one.free[: job.devices]) for one in others}
            connection.execute(
                insert(device_claims),
                [
                    {"worker_id": one, "device": device, "job_id": job.id, "attempt": number}
                    for one, theirs in taken.items()
                    for device in theirs
                ],
            )
            told: dict[str, Any] = {}
            if others:
                called = [
                    {
                        "job_id": job.id,
                        "attempt": number,
                        "node_rank": rank,
                        "worker_id": one.worker_id,
                        "worker": one.name,
                        "devices": taken[one.worker_id],
                        "state": Seat.CALLED,
                        "lease_seconds": lease_seconds,
                        "renewals": 0,
                    }
                    for rank, one in enumerate(others, 1)
                ]
                connection.execute(insert(members), called)
                told["members"] = [{name: one[name] for name in ("node_rank", "worker", "devices")} for one in called]
            events.append(connection, job.id, "claimed", now, attempt=number, worker=worker, devices=devices, **told)
            called_ids = tuple(one.worker_id for one in others)
            return Claim(read_job(connection, job.id), number, token, devices, called=called_ids)

    def held(self, job_id: str, number: int) -> Claim | None:
        """What an attempt that is still under way was given; None: it is over, or was never."""
        query = select(attempts).where(
            attempts.c.job_id == job_id, attempts.c.number == number, attempts.c.ended_at.is_(None)
        )
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
            if row is None:
                return None
            return Claim(read_job(connection, job_id), number, row.token, row.devices, row.spool_offset)

    def claimable(self, worker_id: str, older_than_seconds: float, fits: Callable[[Sequence[str]], bool]) -> bool:
        """Whether one of the first jobs that this worker's free devices suit has waited for so long, and fits it."""
        with self._database.read() as connection:
            announced = connection.execute(
                select(workers.c.devices).where(workers.c.id == worker_id)
            ).scalar_one_or_none()
            kinds = free_by_kind(announced or [], _taken(connection, worker_id))
            if not any(kinds.values()):
                return False
            now = self._database.now(connection)
            waiting = self._waiting(connection, worker_id, kinds, now)
            # Nobody rings when a backoff is over: a job that was tried before has no bell to wait for.
            waited = available(now, older_than_seconds) | (available(now) & (jobs.c.attempt > 0))
            # Asked apart: those that wait for machines must not hide those that need none but this one.
            alone = select(jobs.c.class_paths).where(waiting, waited, jobs.c.nodes == 1).limit(CLAIMABLE_LOOK)
            if any(map(fits, connection.execute(alone).scalars())):
                return True
            # Nor does anybody ring when another machine has room.
            wanted = (jobs.c.nodes, jobs.c.accelerator, jobs.c.devices, CLASSES.label("classes"))
            several = select(*wanted).where(waiting, SEVERAL).distinct().limit(APART_MAX)
            for needs in connection.execute(several).all():
                classes = orjson.loads(needs.classes)
                if fits(classes) and self._assembly.others(connection, needs, classes, worker_id, now) is not None:
                    return True
            return False

    def _waiting(self, connection: Connection, worker_id: str, kinds: Kinds, now: datetime) -> ColumnElement[bool]:
        """The condition on `jobs` that a worker with these free devices may be given one now."""
        waiting = (jobs.c.status == Status.QUEUED) & available(now) & runnable(kinds)
        hold = self._assembly.hold(connection, now)
        if hold is None or worker_id not in hold.places:
            return waiting
        return waiting & (hold.ahead() | runnable(hold.spared(kinds)))

    def _best(
        self,
        connection: Connection,
        worker_id: str,
        kinds: Kinds,
        now: datetime,
        fits: Callable[[Sequence[str]], bool],
    ) -> tuple[Row[Any], Sequence[Machine]] | None:
        """The row of the best job that fits, locked, and its further machines; None where there is none.

        It looks at the first job of each project, then at up to `CLAIM_PAGES` pages of `CLAIM_PAGE` jobs in all. What
        the devices cannot run, and what needs a list of classes that was refused before, is passed over in SQL and
        does not count. So a worker overlooks a job only behind `CLAIM_PAGES` refusals, each with classes of its own,
        and one of several machines behind `APART_MAX` others that cannot be had, each with needs of its own.
        """
        waiting = self._waiting(connection, worker_id, kinds, now)
        first = (
            select(jobs.c.id)
            .where(jobs.c.project_id == projects.c.id, waiting)
            .order_by(jobs.c.priority.desc(), jobs.c.id)
            .limit(1)
        )
        heads = connection.execute(select(first.scalar_subquery()).select_from(projects)).scalars().all()
        active = select(jobs.c.project_id).where(jobs.c.status == Status.RUNNING)
        running = Counter(connection.execute(active).scalars())
        refused: set[str] = set()
        apart: set[tuple[Any, ...]] = set()  # what jobs of several machines need that cannot be had together now
        pages = iter(range(CLAIM_PAGES))
        queues = [
            _queue(connection, head, waiting, refused, apart, pages)
            for head in connection.execute(select(*QUEUE_COLUMNS).where(jobs.c.id.in_(filter(None, heads)))).all()
        ]
        for job in heapq.merge(*queues, key=lambda job: (-job.priority, running[job.project_id], job.id)):
            full = job.nodes > 1 and len(apart) >= APART_MAX
            if full or job.classes in refused or _needs(job) in apart:
                continue
            classes = orjson.loads(job.classes)
            if not fits(classes):
                refused.add(job.classes)
                continue
            others: Sequence[Machine] = ()
            if job.nodes > 1:
                found = self._assembly.others(connection, job, classes, worker_id, now, lock=True)
                if found is None:
                    apart.add(_needs(job))
                    continue
                others = found
            # Another claimer may have it by now: then it is locked, or no longer waiting.
            mine = select(jobs).where(jobs.c.id == job.id, waiting).with_for_update(skip_locked=True)
            if (row := connection.execute(mine).one_or_none()) is not None:
                return row, others
        return None


def _needs(job: Row[Any]) -> tuple[Any, ...]:
    return (job.nodes, job.accelerator, job.devices, job.classes)


def _queue(
    connection: Connection,
    head: Row[Any],
    waiting: ColumnElement[bool],
    refused: Collection[str],
    apart: Collection[tuple[Any, ...]],
    pages: Iterator[int],
) -> Iterator[Row[Any]]:
    """A project's jobs from its first on, best first, a page at a time, while the claim has pages left."""
    last = head
    yield head
    for _ in pages:
        query = (
            select(*QUEUE_COLUMNS)
            .where(jobs.c.project_id == head.project_id, waiting, CLASSES.not_in(refused), _none_of(apart))
            .order_by(jobs.c.priority.desc(), jobs.c.id)
            .limit(CLAIM_PAGE)
        )
        # Two questions, because "after (priority, id)" in one is no range of the index, whose directions differ.
        rows = connection.execute(query.where(jobs.c.priority == last.priority, jobs.c.id > last.id)).all()
        rows = rows or connection.execute(query.where(jobs.c.priority < last.priority)).all()
        if not rows:
            return
        yield from rows
        last = rows[-1]


def _none_of(apart: Collection[tuple[Any, ...]]) -> ColumnElement[bool]:
    if len(apart) >= APART_MAX:  # each costs a look at all workers, and SQLite takes no expression deeper than 1000
        return jobs.c.nodes == 1
    of_one = [and_(*[column == value for column, value in zip(NEEDS, needs, strict=True)]) for needs in apart]
    return not_(or_(false(), *of_one))


def available(now: datetime, for_seconds: float = 0.0) -> ColumnElement[bool]:
    """The condition on `jobs` that one which is queued may start, and might have for so long, as to backoffs."""
    far = now + timedelta(seconds=CLOCK_STEP_SECONDS)
    return (jobs.c.available_at <= now - timedelta(seconds=for_seconds)) | (jobs.c.available_at > far)


def _taken(connection: Connection, worker_id: str) -> set[str]:
    query = select(device_claims.c.device).where(device_claims.c.worker_id == worker_id)
    return set(connection.execute(query).scalars())
