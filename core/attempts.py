"""Attempts: what a worker that holds a job under a lease and a fencing token records of it, and how it ends."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, delete, select, update

from core import events
from core.database import Database
from core.errors import LeaseLost
from core.jobs import move, read_job, touch
from core.states import ReasonCode, Status
from core.tables import attempts, device_claims, jobs


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


class Attempts:
    """The store of attempts. Each verb is one transaction; each write of an attempt carries its token."""

    def __init__(self, database: Database) -> None:
        self._database = database

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
