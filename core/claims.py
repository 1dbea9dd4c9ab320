"""Claims: which queued job a worker is given, with devices of its own, under a lease and a fencing token."""

import heapq
import secrets
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain
from operator import attrgetter
from typing import Any

import orjson
from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Connection,
    FromClause,
    Row,
    Text,
    and_,
    any_,
    cast,
    false,
    func,
    insert,
    literal,
    not_,
    or_,
    select,
)

from core import events
from core.assembly import Assembly, Hold, Machine
from core.database import Database
from core.devices import Kinds, free_by_kind, offered, runnable
from core.job import Attempt, Job, as_job, attempts_of, read_job
from core.jobs import moved_row
from core.settings import BACKOFF_MAX_SECONDS
from core.states import Phase, Seat, Status
from core.tables import SEVERAL, Instant, attempts, device_claims, jobs, members, projects, workers

CLAIM_PAGE = 50
CLAIM_PAGES = 200
CLASSES = cast(jobs.c.class_paths, Text)  # the list as it is stored: JSON itself has no equality on PostgreSQL
NEEDS = (jobs.c.nodes, jobs.c.accelerator, jobs.c.devices, CLASSES)
CLAIMABLE_LOOK = 200
APART_MAX = 50
"""Needs of several machines that one claim finds it cannot have; then it looks at jobs of one machine only."""
CLOCK_STEP_SECONDS = 2 * BACKOFF_MAX_SECONDS
"""No backoff is so long: a job that is to wait for longer was written before the clock was set back."""


def _queue_columns(table: FromClause) -> Sequence[ColumnElement[Any]]:
    names = ("id", "project_id", "priority", "nodes", "accelerator", "devices")
    return [*(table.c[name] for name in names), cast(table.c.class_paths, Text).label("classes")]


QUEUE_COLUMNS = _queue_columns(jobs)
HEAD = jobs.alias("head")  # made once, for it copies every column
HEAD_COLUMNS = _queue_columns(HEAD)


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
        self,
        worker_id: str,
        worker: str,
        lease_seconds: float,
        fits: Callable[[Sequence[str]], bool],
        foretell: Callable[[Sequence[str], dict[str, Any]], None] | None = None,
    ) -> Claim | None:
        """Give a worker the best queued job that its free devices and its catalogue can run, or nothing.

        Best is by priority, then the project with the fewest running jobs, then age. Devices and job are taken in
        one transaction; the worker's row is locked, so that its threads take devices one after the other. A job of
        several machines is given only with devices on all of them: this worker's is the first, the others are called.

        `foretell` is called with the devices and the config as soon as they are known, before the transaction ends: it
        must not take long, and the claim may come to nothing.
        """
        with self._database.write() as connection:
            announced = connection.execute(
                select(workers.c.devices)
                .where(workers.c.id == worker_id, workers.c.stopped_at.is_(None))
                .with_for_update()
            ).scalar_one_or_none()
            if announced is None:
                return None
            now, several_wait, busy = self._look_around(connection, worker_id)
            kinds = free_by_kind(announced, busy)
            if not any(kinds.values()):
                return None
            hold = self._assembly.hold(connection, now) if several_wait else None
            best = self._best(connection, worker_id, kinds, now, fits, hold)
            if best is None:
                return None
            row, others = best
            devices = list(offered(kinds, row.accelerator)[: row.devices])
            number, token = row.attempt, row.token
            if foretell is not None:
                foretell(devices, row.config)
            attempt = connection.execute(
                insert(attempts)
                .values(
                    job_id=row.id,
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
                .returning(attempts)
            ).one()
            taken = {worker_id: devices} | {one.worker_id: list(one.free[: row.devices]) for one in others}
            held = [
                {"worker_id": one, "device": device, "job_id": row.id, "attempt": number}
                for one, theirs in taken.items()
                for device in theirs
            ]
            connection.execute(insert(device_claims), held[0] if len(held) == 1 else held)
            told: dict[str, Any] = {}
            if others:
                called = [
                    {
                        "job_id": row.id,
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
            events.append(connection, row.id, "claimed", now, attempt=number, worker=worker, devices=devices, **told)
            called_ids = tuple(one.worker_id for one in others)
            tries: tuple[Attempt, ...] = (Attempt(**attempt._mapping),)
            if number > 1 or others:
                tries = attempts_of(connection, [row.id])[row.id]
            return Claim(as_job(row, tries), number, token, devices, called=called_ids)

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
            waiting = _waiting(worker_id, kinds, now, self._assembly.hold(connection, now))
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

    def _look_around(self, connection: Connection, worker_id: str) -> tuple[datetime, bool, set[str]]:
        """The time, whether any job of several machines waits, and which devices of a worker are taken, in one look."""
        several = select(jobs.c.id).where(SEVERAL, jobs.c.status == Status.QUEUED).exists()
        one = select(literal(1).label("one")).subquery()
        mine = one.outerjoin(device_claims, device_claims.c.worker_id == worker_id)
        query = select(self._database.clock().label("now"), several.label("several"), device_claims.c.device)
        rows = connection.execute(query.select_from(mine)).all()
        return rows[0].now, rows[0].several, {row.device for row in rows if row.device is not None}

    def _best(
        self,
        connection: Connection,
        worker_id: str,
        kinds: Kinds,
        now: datetime,
        fits: Callable[[Sequence[str]], bool],
        hold: Hold | None,
    ) -> tuple[Row[Any], Sequence[Machine]] | None:
        """The row of the best job that fits, running now, and its further machines; None where there is none.

        It looks at the first job of each project, then at up to `CLAIM_PAGES` pages of `CLAIM_PAGE` jobs in all. What
        the devices cannot run, and what needs a list of classes that was refused before, is passed over in SQL and
        does not count. So a worker overlooks a job only behind `CLAIM_PAGES` refusals, each with classes of its own,
        and one of several machines behind `APART_MAX` others that cannot be had, each with needs of its own.

        Jobs that others are claiming at this moment are passed over, many at once: of those that are equally good,
        and then of the next `CLAIM_PAGE`, it takes the first that nobody holds.
        """
        waiting = _waiting(worker_id, kinds, now, hold)
        heads = _heads(connection, waiting)
        running = _running(connection, [head.project_id for head in heads]) if len(heads) > 1 else Counter[str]()

        def rank(job: Row[Any]) -> tuple[int, int]:
            return -job.priority, running[job.project_id]

        refused: set[str] = set()
        apart: set[tuple[Any, ...]] = set()  # what jobs of several machines need that cannot be had together now
        pages = iter(range(CLAIM_PAGES))

        def fitting(found: Iterable[Row[Any]]) -> Iterator[Row[Any]]:
            for job in found:
                full = job.nodes > 1 and len(apart) >= APART_MAX
                if full or job.classes in refused or _needs(job) in apart:
                    continue
                if fits(orjson.loads(job.classes)):
                    yield job
                else:
                    refused.add(job.classes)

        def together(found: Iterable[Row[Any]]) -> Iterator[Sequence[Row[Any]]]:
            """Those to be tried at once: one, or those of one machine that follow each other once one was lost."""
            some: list[Row[Any]] = []
            for job in fitting(found):
                if job.nodes > 1 and some:
                    yield some
                    some = []
                if job.id not in lost:
                    some.append(job)
                if some and (job.nodes > 1 or not lost or len(some) == CLAIM_PAGE):
                    yield some
                    some = []
            if some:
                yield some

        lost: set[str] = set()
        best = min(map(rank, heads), default=None)
        first = sorted((head for head in heads if rank(head) == best), key=attrgetter("id"))
        queues = [_queue(connection, head, waiting, refused, apart, pages) for head in heads]
        merged = heapq.merge(*queues, key=lambda job: (*rank(job), job.id))
        for some in chain(together(first), together(merged)):
            job = some[0]
            others: Sequence[Machine] = ()
            if job.nodes > 1:
                found = self._assembly.others(connection, job, orjson.loads(job.classes), worker_id, now, lock=True)
                if found is None:
                    apart.add(_needs(job))
                    continue
                others = found
            row = _taken_one(connection, [job.id for job in some], waiting, now)
            if row is not None:
                return row, others
            lost.update(job.id for job in some)
        return None


def _waiting(worker_id: str, kinds: Kinds, now: datetime, hold: Hold | None) -> ColumnElement[bool]:
    """The condition on `jobs` that a worker with these free devices may be given one now."""
    waiting = (jobs.c.status == Status.QUEUED) & available(now) & runnable(kinds)
    if hold is None or worker_id not in hold.places:
        return waiting
    return waiting & (hold.ahead() | runnable(hold.spared(kinds)))


def _heads(connection: Connection, waiting: ColumnElement[bool]) -> Sequence[Row[Any]]:
    """The first job of each project that has one."""
    first = (
        select(jobs.c.id)
        .where(jobs.c.project_id == projects.c.id, waiting)
        .order_by(jobs.c.priority.desc(), jobs.c.id)
        .limit(1)
        .correlate(projects)
    )
    of_each = projects.join(HEAD, HEAD.c.id == first.scalar_subquery())
    return connection.execute(select(*HEAD_COLUMNS).select_from(of_each)).all()


def _running(connection: Connection, project_ids: Sequence[str]) -> Counter[str]:
    """How many jobs of each project run."""
    theirs = (jobs.c.status == Status.RUNNING, jobs.c.project_id.in_(project_ids))
    query = select(jobs.c.project_id, func.count()).where(*theirs).group_by(jobs.c.project_id)
    return Counter({row[0]: row[1] for row in connection.execute(query)})


def _taken_one(
    connection: Connection, job_ids: list[str], waiting: ColumnElement[bool], now: datetime
) -> Row[Any] | None:
    """The first of these jobs that still waits and that nobody else is claiming, moved to this claim; None: none."""
    free = select(jobs.c.id).where(waiting).limit(1).with_for_update(skip_locked=True)
    if len(job_ids) == 1:
        free = free.where(jobs.c.id == job_ids[0])
    else:
        wanted = literal(job_ids, ARRAY(Text))
        free = free.where(jobs.c.id == any_(wanted)).order_by(func.array_position(wanted, jobs.c.id))
    return moved_row(
        connection,
        jobs.c.id == free.correlate(None).scalar_subquery(),
        Status.RUNNING,
        phase=Phase.STARTING,
        attempt=jobs.c.attempt + 1,
        attempts_spent=jobs.c.attempts_spent + 1,
        token=secrets.token_hex(16),
        started_at=func.coalesce(jobs.c.started_at, literal(now, Instant())),
    )


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
