"""Attempts: what a worker that holds a job under a lease and a fencing token records of it, and how it ends."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, delete, select, update

from core import events
from core.database import Database
from core.errors import LeaseLost
from core.job import read_job
from core.jobs import RELEASED, drop_recoveries, end_as_cancelled, move, touch
from core.orders import Orders, orders_of
from core.states import ReasonCode, Seat, Status
from core.tables import attempts, device_claims, jobs, members, workers

RENEWALS_PER_LEASE = 3
"""How often a lease is renewed in the time that it lasts."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The hold of a live attempt, or of one of its members, on its job: over when `renewals` has not grown for so long.

    `node_rank` 0: the attempt's own.
    """

    job_id: str
    number: int
    token: str
    worker: str
    worker_id: str
    seconds: float
    renewals: int
    node_rank: int = 0
    joined: bool = True

    @property
    def key(self) -> tuple[str, int]:
        """Whose lease it is."""
        return self.token, self.node_rank


@dataclass(frozen=True, slots=True)
class Retry:
    """How a lost attempt is tried again: after `first_seconds`, doubling, at most `longest_seconds`."""

    first_seconds: float
    longest_seconds: float

    def delay(self, attempts_spent: int) -> timedelta:
        """The wait after that many attempts; none after none."""
        if attempts_spent < 1:
            return timedelta()
        return timedelta(seconds=min(self.longest_seconds, self.first_seconds * 2 ** (attempts_spent - 1)))


class Attempts:
    """The store of attempts. Each verb is one transaction; each write of an attempt carries its token."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def renew(self, job_id: str, token: str) -> Orders:
        """Keep an attempt alive, and learn what was asked of its job. Raises `LeaseLost`."""
        with self._database.write() as connection:
            renewed = connection.execute(
                update(attempts)
                .where(attempts.c.job_id == job_id, attempts.c.token == token, attempts.c.ended_at.is_(None))
                .values(renewals=attempts.c.renewals + 1)
            ).rowcount
            if not renewed:
                raise LeaseLost(f"{job_id}: the lease of this attempt has passed to another")
            return orders_of(connection, job_id, token)

    def orders(self, job_id: str, token: str) -> Orders:
        """What callers have asked of a running job. Raises `LeaseLost`."""
        with self._database.read() as connection:
            return orders_of(connection, job_id, token)

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
            if event_type == "checkpoint_failed":  # whoever asked for it may ask again
                touch(connection, job_id, token=token, checkpoint_requested_at=None)
            if event_type == "resumed" and data.get("resume") in ("exact", "epoch"):
                connection.execute(update(attempts).where(attempts.c.token == token).values(resume=data["resume"]))
        if spool_offset is not None:
            connection.execute(update(attempts).where(attempts.c.token == token).values(spool_offset=spool_offset))

    def tell(self, job_id: str, token: str, event_type: str, **data: Any) -> None:
        """Record that something happened to a running attempt just now. Raises `LeaseLost`."""
        with self._database.write() as connection:
            self.note(connection, job_id, token, [(event_type, self._database.now(connection), data)])

    def start_from(self, job_id: str, token: str, checkpoint_id: str | None, steps_lost: int) -> None:
        """Say where a further attempt starts: at a recovery checkpoint, or (None) from the beginning.

        `steps_lost` are the steps of the attempts before that are trained again. How exactly it goes on from a
        checkpoint, its trainer says. Raises `LeaseLost`.
        """
        with self._database.write() as connection:
            touch(connection, job_id, token=token)
            resume = None if checkpoint_id else "restart"
            values = {"resume": resume, "resumed_from": checkpoint_id, "steps_lost": steps_lost}
            connection.execute(update(attempts).where(attempts.c.token == token).values(**values))

    def finish(
        self, job_id: str, token: str, status: Status, reason: Mapping[str, Any] | None = None, **data: Any
    ) -> Sequence[str]:
        """End a job with its running attempt. Raises `LeaseLost`.

        One that succeeded needs no recovery checkpoints any more: returns where the files of those lie, which are to be
        removed now.
        """
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
                finished_at=now,
                **RELEASED,
            )
            if status is not Status.SUCCEEDED:
                return []
            return drop_recoveries(connection, job_id)

    def stopped(self, job_id: str, token: str, message: str, *, saved: bool) -> Status:
        """End an attempt that was stopped, and do with its job what is asked by now; returns where it went.

        To be cancelled, it keeps its newest recovery checkpoint as its last; to be paused, it waits; else it goes back
        to the queue. Neither pausing nor that costs an attempt. `saved`: its trainer stopped by itself, between two
        steps. Raises `LeaseLost`.
        """
        with self._database.write() as connection:
            now = self._database.now(connection)
            touch(connection, job_id, token=token)
            job = read_job(connection, job_id)
            if saved:
                events.append(connection, job_id, "stopped", now, attempt=job.attempt)
            if job.cancel_requested_at is not None:
                _end_attempt(connection, job_id, token, str(Status.CANCELLED), now)
                end_as_cancelled(connection, job_id, message, now, guard=token)
                return Status.CANCELLED
            if job.pause_requested_at is not None:
                _end_attempt(connection, job_id, token, str(Status.PAUSED), now)
                touch(connection, job_id, token=token, attempts_spent=jobs.c.attempts_spent - 1)
                told = {"attempt": job.attempt, "message": message}
                move(connection, job_id, Status.PAUSED, "paused", now, data=told, guard=token, **RELEASED)
                return Status.PAUSED
            return _lose(connection, job_id, token, ReasonCode.PREEMPTED, message, timedelta(), now, costs=False)

    def lose(
        self, job_id: str, token: str, code: ReasonCode, message: str, retry: Retry, *, costs: bool = True
    ) -> Status:
        """End a running attempt that did not fail by its own fault, and requeue its job unless its attempts are spent.

        `costs`: it counts as one of those; a preempted one never does. Returns where the job went. Raises `LeaseLost`.
        """
        with self._database.write() as connection:
            preempted = code is ReasonCode.PREEMPTED  # the service's own doing: it waits for nothing
            wait = timedelta() if preempted else retry.delay(_spent(connection, job_id))
            now = self._database.now(connection)
            return _lose(connection, job_id, token, code, message, wait, now, costs=costs and not preempted)

    def leases(self) -> Sequence[Lease]:
        """The hold of every live attempt on its job, read as one who could renew it.

        On SQLite that is, holding the lock of all who write: while another holds it, nobody can renew.
        """
        columns = (attempts.c.job_id, attempts.c.number, attempts.c.token, attempts.c.worker, attempts.c.worker_id)
        query = select(*columns, attempts.c.lease_seconds, attempts.c.renewals).where(attempts.c.ended_at.is_(None))
        seats = (
            members.c.worker,
            members.c.worker_id,
            members.c.lease_seconds,
            members.c.renewals,
            members.c.node_rank,
        )
        of_members = (
            select(attempts.c.job_id, attempts.c.number, attempts.c.token, *seats, members.c.state != Seat.CALLED)
            .join(members, (members.c.job_id == attempts.c.job_id) & (members.c.attempt == attempts.c.number))
            .where(attempts.c.ended_at.is_(None), members.c.state != Seat.ENDED)
        )
        with self._database.write() as connection:
            return [Lease(*row) for some in (query, of_members) for row in connection.execute(some)]

    def expire(self, lease: Lease, retry: Retry) -> Status | None:
        """Requeue the job of a lease that was not renewed; None: it was, just now, or the attempt is over.

        The first time without a wait: the lease was one. Where the database let nobody write for a while, whoever
        holds the lease may be about to renew it: then it is left for later. Any process may call it.
        """
        began = time.monotonic()
        with self._database.write() as connection:
            connection.execute(select(jobs.c.id).where(jobs.c.id == lease.job_id).with_for_update())
            # Locked, so that no renewal comes between this look and the attempt's end.
            live = select(attempts.c.renewals).where(attempts.c.token == lease.token, attempts.c.ended_at.is_(None))
            renewals = connection.execute(live.with_for_update()).scalar_one_or_none()
            if renewals is not None and lease.node_rank:
                its = (members.c.job_id == lease.job_id, members.c.attempt == lease.number)
                seat = select(members.c.renewals).where(*its, members.c.node_rank == lease.node_rank)
                at_it = seat.where(members.c.state != Seat.ENDED).with_for_update()
                renewals = connection.execute(at_it).scalar_one_or_none()
            if renewals != lease.renewals or time.monotonic() - began > lease.seconds / 4:
                return None
            now, wait = self._database.now(connection), retry.delay(_spent(connection, lease.job_id) - 1)
            message = f"worker {lease.worker} went silent: its lease ran out"
            lost = (ReasonCode.WORKER_LOST, message, wait, now)
            # One that never answered was gone before the attempt began.
            return _lose(connection, lease.job_id, lease.token, *lost, costs=lease.joined)

    def shun(self, lease: Lease) -> None:
        """Have the worker of an expired lease called to no job of several machines until it is heard of again."""
        with self._database.write() as connection:
            connection.execute(update(workers).where(workers.c.id == lease.worker_id).values(accepts=False))

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
    connection: Connection,
    job_id: str,
    token: str,
    code: ReasonCode,
    message: str,
    wait: timedelta,
    now: datetime,
    *,
    costs: bool = True,
) -> Status:
    _end_attempt(connection, job_id, token, str(code), now)
    touch(connection, job_id, token=token, attempts_spent=jobs.c.attempts_spent - int(not costs))
    job = read_job(connection, job_id)
    told = {"attempt": job.attempt, "reason": {"code": code, "message": message}}
    events.append(connection, job_id, "attempt_lost", now, **told)
    if job.cancel_requested_at is not None:
        end_as_cancelled(connection, job_id, f"cancelled by request; {message}", now, guard=token)
        return Status.CANCELLED
    if job.attempts_spent >= job.max_attempts and costs:
        message = f"all {job.max_attempts} attempts are spent; the last: {message}"
        reason = {"code": ReasonCode.MAX_ATTEMPTS, "message": message}
        values = {"reason": reason, "finished_at": now} | RELEASED
        move(connection, job_id, Status.FAILED, "failed", now, data={"reason": reason}, guard=token, **values)
        return Status.FAILED
    if job.pause_requested_at is not None:
        move(connection, job_id, Status.PAUSED, "paused", now, data=told, guard=token, **RELEASED)
        return Status.PAUSED
    available_at = now + wait
    data = {"available_at": available_at.isoformat()}
    move(
        connection,
        job_id,
        Status.QUEUED,
        "requeued",
        now,
        data=data,
        guard=token,
        available_at=available_at,
        **RELEASED,
    )
    return Status.QUEUED


def _spent(connection: Connection, job_id: str) -> int:
    return connection.execute(select(jobs.c.attempts_spent).where(jobs.c.id == job_id)).scalar_one_or_none() or 0


def _end_attempt(connection: Connection, job_id: str, token: str, outcome: str, now: datetime) -> None:
    # The job's row first: every transaction that takes both rows takes them in this order, so that none deadlock.
    connection.execute(select(jobs.c.id).where(jobs.c.id == job_id).with_for_update())
    row = connection.execute(
        update(attempts)
        .where(attempts.c.job_id == job_id, attempts.c.token == token, attempts.c.ended_at.is_(None))
        .values(ended_at=now, outcome=outcome)
        .returning(attempts.c.number, attempts.c.started_at, attempts.c.renewals, attempts.c.lease_seconds)
    ).one_or_none()
    if row is None:
        raise LeaseLost(f"{job_id}: this attempt has already ended")
    connection.execute(
        update(members)
        .where(members.c.job_id == job_id, members.c.attempt == row.number, members.c.state != Seat.ENDED)
        .values(state=Seat.ENDED)
    )
    connection.execute(
        delete(device_claims).where(device_claims.c.job_id == job_id, device_claims.c.attempt == row.number)
    )
    # As long as its lease vouches for: hours for which a machine was down, or a clock was set forward, trained nothing.
    vouched = row.lease_seconds * (1 + (row.renewals + 1) / RENEWALS_PER_LEASE)
    seconds = min(vouched, max(0.0, (now - row.started_at).total_seconds()))
    connection.execute(update(jobs).where(jobs.c.id == job_id).values(seconds_spent=jobs.c.seconds_spent + seconds))
