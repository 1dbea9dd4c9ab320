"""Attempts: claiming a job under a lease and a fencing token, keeping it, and ending it."""

import heapq
import secrets
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Connection, Row, Text, cast, delete, insert, select, update
from sqlalchemy.exc import SQLAlchemyError

from core import events
from core.database import Database
from core.devices import Kinds, free_by_kind, offered, runnable
from core.errors import LeaseLost
from core.jobs import Job, as_job, move, moved, read_job, touch
from core.states import ReasonCode, Status
from core.tables import attempts, device_claims, jobs, projects, workers

CLAIM_PAGE = 50
CLAIM_PAGES = 200
CLASSES = cast(jobs.c.class_paths, Text)  # the list as it is stored: JSON itself has no equality on PostgreSQL
QUEUE_COLUMNS = (jobs.c.id, jobs.c.project_id, jobs.c.priority, CLASSES.label("classes"))
CLAIMABLE_LOOK = 200


@dataclass(frozen=True, slots=True)
class Claim:
    """A job given to a worker, with the devices and the token it holds it by."""

    job: Job
    attempt: int
    token: str
    devices: list[str]


@dataclass(frozen=True, slots=True)
class Orders:
    """What callers ask of a running job by now: to stop, and within which limits (seconds, bytes) to stay."""

    cancel: bool
    force: bool
    max_seconds: float
    max_memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class Retry:
    """How a lost attempt is tried again: after `first_seconds`, doubling, at most `longest_seconds`."""

    first_seconds: float
    longest_seconds: float

    def delay(self, attempts_spent: int) -> timedelta:
        """The wait after that many attempts."""
        return timedelta(seconds=min(self.longest_seconds, self.first_seconds * 2 ** max(0, attempts_spent - 1)))


class Reaper:
    """Requeues the jobs of expired leases, from a process that has been able to reach the database all the while.

    After an outage every lease has run out, though every worker may be well: whoever requeued at once would kill
    healthy training. So a process expires leases only after it has itself reached the database, without a break, for
    as long as a lease lasts: by then each worker that lives has renewed its own.
    """

    def __init__(self, attempts: "Attempts", retry: Retry, lease_seconds: float) -> None:
        self._attempts = attempts
        self._retry = retry
        self._lease_seconds = lease_seconds
        self._reached_since: float | None = None

    def look(self) -> Sequence[tuple[str, Status]]:
        """Requeue what has expired; returns each job and where it went. Raises `SQLAlchemyError` in an outage."""
        try:
            self._attempts.reach()
            now = time.monotonic()
            if self._reached_since is None:
                self._reached_since = now
            if now - self._reached_since < self._lease_seconds:
                return []
            return self._attempts.expire(self._retry)
        except SQLAlchemyError:
            self._reached_since = None
            raise


class Attempts:
    """The store of attempts. Each verb is one transaction; each write of an attempt carries its token."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def claim(
        self, worker_id: str, worker: str, lease_seconds: float, fits: Callable[[Sequence[str]], bool]
    ) -> Claim | None:
        """Give a worker the best queued job that its free devices and its catalogue can run, or nothing.

        Best is by priority, then the project with the fewest running jobs, then age. Devices and job are taken in
        one transaction; the worker's row is locked, so that its threads take devices one after the other.
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
            row = self._best(connection, kinds, now, fits)
            if row is None:
                return None
            job = as_job(row)
            devices = list(offered(kinds, job.accelerator)[: job.devices])
            number, token = job.attempt + 1, secrets.token_hex(16)
            values: dict[str, Any] = {
                "phase": "starting",
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
                    lease_expires_at=now + timedelta(seconds=lease_seconds),
                    started_at=now,
                    spool_offset=0,
                )
            )
            connection.execute(
                insert(device_claims),
                [{"worker_id": worker_id, "device": d, "job_id": job.id, "attempt": number} for d in devices],
            )
            events.append(connection, job.id, "claimed", now, attempt=number, worker=worker, devices=devices)
            return Claim(job=read_job(connection, job.id), attempt=number, token=token, devices=devices)

    def claimable(self, worker_id: str, older_than_seconds: float, fits: Callable[[Sequence[str]], bool]) -> bool:
        """Whether one of the first jobs that this worker's free devices suit has waited for so long, and fits it."""
        with self._database.read() as connection:
            announced = connection.execute(
                select(workers.c.devices).where(workers.c.id == worker_id)
            ).scalar_one_or_none()
            kinds = free_by_kind(announced or [], _taken(connection, worker_id))
            if not any(kinds.values()):
                return False
            cutoff = self._database.now(connection) - timedelta(seconds=older_than_seconds)
            query = select(jobs.c.class_paths).where(
                jobs.c.status == Status.QUEUED, jobs.c.available_at <= cutoff, runnable(kinds)
            )
            return any(map(fits, connection.execute(query.limit(CLAIMABLE_LOOK)).scalars()))

    def renew(self, job_id: str, token: str, lease_seconds: float) -> Orders:
        """Keep an attempt alive, and learn what was asked of its job. Raises `LeaseLost`."""
        with self._database.write() as connection:
            now = self._database.now(connection)
            renewed = connection.execute(
                update(attempts)
                .where(attempts.c.job_id == job_id, attempts.c.token == token, attempts.c.ended_at.is_(None))
                .values(lease_expires_at=now + timedelta(seconds=lease_seconds))
            ).rowcount
            if not renewed:
                raise LeaseLost(f"{job_id}: the lease of this attempt has passed to another")
            return _orders(connection, job_id, token)

    def orders(self, job_id: str, token: str) -> Orders:
        """What callers have asked of a running job. Raises `LeaseLost`."""
        with self._database.read() as connection:
            return _orders(connection, job_id, token)

    def note(
        self,
        connection: Connection,
        job_id: str,
        token: str,
        happened: Sequence[tuple[str, datetime, Mapping[str, Any]]] = (),
        *,
        spool_offset: int | None = None,
        **values: Any,
    ) -> None:
        """Record what a running attempt reports, inside the transaction that writes more of it under the same token.

        `happened` are events as (type, time, data), `values` the job's phase, progress or metrics. Raises `LeaseLost`.
        """
        touch(connection, job_id, token=token, **values)
        for event_type, at, data in happened:
            events.record(connection, job_id, event_type, at, data)
        if spool_offset is not None:
            connection.execute(update(attempts).where(attempts.c.token == token).values(spool_offset=spool_offset))

    def tell(self, job_id: str, token: str, event_type: str, **data: Any) -> None:
        """Record that something happened to a running attempt just now. Raises `LeaseLost`."""
        with self._database.write() as connection:
            self.note(connection, job_id, token, [(event_type, self._database.now(connection), data)])

    def start_from(self, job_id: str, token: str, checkpoint_id: str | None, steps_lost: int) -> None:
        """Say where a further attempt starts: at a recovery checkpoint, or (None) from the beginning.

        `steps_lost` are the steps of the attempts before that are trained again. Raises `LeaseLost`.
        """
        with self._database.write() as connection:
            touch(connection, job_id, token=token)
            resume = "exact" if checkpoint_id else "restart"
            values = {"resume": resume, "resumed_from": checkpoint_id, "steps_lost": steps_lost}
            connection.execute(update(attempts).where(attempts.c.token == token).values(**values))

    def finish(
        self, job_id: str, token: str, status: Status, reason: Mapping[str, Any] | None = None, **data: Any
    ) -> None:
        """End a job with its running attempt. Raises `LeaseLost`."""
        with self._database.write() as connection:
            now = self._database.now(connection)
            _end_attempt(connection, job_id, token, str(status), now)
            told = dict(data) | ({"reason": {k: v for k, v in reason.items() if k != "traceback"}} if reason else {})
            move(
                connection,
                job_id,
                status,
                str(status),
                now,
                data=told,
                guard=token,
                reason=dict(reason) if reason else None,
                phase=None,
                token=None,
                finished_at=now,
            )

    def lose(self, job_id: str, token: str, code: ReasonCode, message: str, retry: Retry) -> Status:
        """End a running attempt that did not fail by its own fault, and requeue its job unless its attempts are spent.

        Returns where the job went. Raises `LeaseLost`.
        """
        with self._database.write() as connection:
            return _lose(connection, job_id, token, code, message, retry, self._database.now(connection))

    def reach(self) -> None:
        """Return if the database answers. Raises `SQLAlchemyError` if it does not."""
        with self._database.read() as connection:
            self._database.now(connection)

    def expire(self, retry: Retry, limit: int = 100) -> Sequence[tuple[str, Status]]:
        """Requeue the jobs of attempts whose lease has run out. Any process may call it, as often as it likes."""
        moved: list[tuple[str, Status]] = []
        with self._database.read() as connection:
            now = self._database.now(connection)
            late = connection.execute(
                select(attempts.c.job_id, attempts.c.token, attempts.c.worker)
                .where(attempts.c.ended_at.is_(None), attempts.c.lease_expires_at < now)
                .limit(limit)
            ).all()
        for row in late:
            with self._database.write() as connection:
                connection.execute(select(jobs.c.id).where(jobs.c.id == row.job_id).with_for_update())
                now = self._database.now(connection)
                still = connection.execute(
                    select(attempts.c.job_id).where(
                        attempts.c.token == row.token,
                        attempts.c.ended_at.is_(None),
                        attempts.c.lease_expires_at < now,
                    )
                ).first()
                if still is None:
                    continue
                message = f"worker {row.worker} went silent: its lease ran out"
                status = _lose(connection, row.job_id, row.token, ReasonCode.WORKER_LOST, message, retry, now)
                moved.append((row.job_id, status))
        return moved

    def known(self, job_id: str) -> bool:
        """Whether the job has not been deleted."""
        with self._database.read() as connection:
            return connection.execute(select(jobs.c.id).where(jobs.c.id == job_id)).first() is not None

    def is_live(self, job_id: str, number: int) -> bool:
        """Whether an attempt is still under way."""
        query = select(attempts.c.number).where(
            attempts.c.job_id == job_id, attempts.c.number == number, attempts.c.ended_at.is_(None)
        )
        with self._database.read() as connection:
            return connection.execute(query).first() is not None

    def _best(self, connection: Connection, kinds: Kinds, now: datetime, fits: Callable[[Sequence[str]], bool]) -> Any:
        """The row of the best job that fits, locked; None where there is none.

        It looks at the first job of each project, then at up to `CLAIM_PAGES` pages of `CLAIM_PAGE` jobs in all. What
        the devices cannot run, and what needs a list of classes that was refused before, is passed over in SQL and
        does not count. So a worker overlooks a job only behind `CLAIM_PAGES` refusals, each with classes of its own.
        """
        waiting = (jobs.c.status == Status.QUEUED) & (jobs.c.available_at <= now) & runnable(kinds)
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
        pages = iter(range(CLAIM_PAGES))
        queues = [
            _queue(connection, head, waiting, refused, pages)
            for head in connection.execute(select(*QUEUE_COLUMNS).where(jobs.c.id.in_(filter(None, heads)))).all()
        ]
        for job in heapq.merge(*queues, key=lambda job: (-job.priority, running[job.project_id], job.id)):
            if job.classes in refused:
                continue
            if not fits(orjson.loads(job.classes)):
                refused.add(job.classes)
                continue
            # Another claimer may have it by now: then it is locked, or no longer waiting.
            mine = select(jobs).where(jobs.c.id == job.id, waiting).with_for_update(skip_locked=True)
            if (row := connection.execute(mine).one_or_none()) is not None:
                return row
        return None


def _queue(
    connection: Connection, head: Row[Any], waiting: ColumnElement[bool], refused: Collection[str], pages: Iterator[int]
) -> Iterator[Row[Any]]:
    """A project's jobs from its first on, best first, a page at a time, while the claim has pages left."""
    last = head
    yield head
    for _ in pages:
        query = (
            select(*QUEUE_COLUMNS)
            .where(jobs.c.project_id == head.project_id, waiting, CLASSES.not_in(refused))
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


def _lose(
    connection: Connection, job_id: str, token: str, code: ReasonCode, message: str, retry: Retry, now: datetime
) -> Status:
    _end_attempt(connection, job_id, token, str(code), now)
    preempted = code is ReasonCode.PREEMPTED  # the service's own doing: it costs no attempt and waits for nothing
    touch(connection, job_id, token=token, attempts_spent=jobs.c.attempts_spent - int(preempted))
    job = read_job(connection, job_id)
    told = {"attempt": job.attempt, "reason": {"code": code, "message": message}}
    events.append(connection, job_id, "attempt_lost", now, **told)
    data: dict[str, Any]
    if job.cancel_requested_at is not None:
        target, event_type = Status.CANCELLED, "cancelled"
        data = {"reason": {"code": ReasonCode.CANCELLED_BY_USER, "message": f"cancelled by request; {message}"}}
    elif job.attempts_spent >= job.max_attempts:
        target, event_type = Status.FAILED, "failed"
        message = f"all {job.max_attempts} attempts are spent; the last: {message}"
        data = {"reason": {"code": ReasonCode.MAX_ATTEMPTS, "message": message}}
    else:
        available_at = now if preempted else now + retry.delay(job.attempts_spent)
        values = {"available_at": available_at, "phase": None, "token": None}
        data = {"available_at": available_at.isoformat()}
        move(connection, job_id, Status.QUEUED, "requeued", now, data=data, guard=token, **values)
        return Status.QUEUED
    values = {"finished_at": now, "phase": None, "token": None}
    move(connection, job_id, target, event_type, now, data=data, guard=token, reason=data["reason"], **values)
    return target


def _end_attempt(connection: Connection, job_id: str, token: str, outcome: str, now: datetime) -> None:
    # The job's row first: every transaction that takes both rows takes them in this order, so that none deadlock.
    connection.execute(select(jobs.c.id).where(jobs.c.id == job_id).with_for_update())
    row = connection.execute(
        update(attempts)
        .where(attempts.c.job_id == job_id, attempts.c.token == token, attempts.c.ended_at.is_(None))
        .values(ended_at=now, outcome=outcome)
        .returning(attempts.c.number, attempts.c.started_at)
    ).one_or_none()
    if row is None:
        raise LeaseLost(f"{job_id}: this attempt has already ended")
    connection.execute(
        delete(device_claims).where(device_claims.c.job_id == job_id, device_claims.c.attempt == row.number)
    )
    seconds = max(0.0, (now - row.started_at).total_seconds())
    connection.execute(update(jobs).where(jobs.c.id == job_id).values(seconds_spent=jobs.c.seconds_spent + seconds))


def _taken(connection: Connection, worker_id: str) -> set[str]:
    query = select(device_claims.c.device).where(device_claims.c.worker_id == worker_id)
    return set(connection.execute(query).scalars())


def _orders(connection: Connection, job_id: str, token: str) -> Orders:
    asked = (jobs.c.cancel_requested_at, jobs.c.cancel_forced, jobs.c.max_seconds, jobs.c.max_memory_bytes)
    query = select(*asked).where(jobs.c.id == job_id, jobs.c.token == token)
    row = connection.execute(query).one_or_none()
    if row is None:
        raise LeaseLost(f"{job_id}: this attempt no longer holds the job")
    return Orders(
        cancel=row.cancel_requested_at is not None,
        force=row.cancel_forced,
        max_seconds=row.max_seconds,
        max_memory_bytes=row.max_memory_bytes,
    )
