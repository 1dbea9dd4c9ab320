"""Orders: what callers, and the members of a job, ask of an attempt that is under way."""

from dataclasses import dataclass

from sqlalchemy import Connection, select

from core.errors import LeaseLost
from core.job import Job, Member, members_of
from core.states import Seat
from core.tables import attempts, jobs, members


@dataclass(frozen=True, slots=True)
class Orders:
    """What is asked of a running job by now: to stop, to save, and within which limits (seconds, bytes) to stay.

    `saves` counts the checkpoints that were asked for so far; `retry_oom`: running out of memory is to be tried again.
    Of a job of several machines: its `members`, whether they are `dismissed`, where they meet (`rendezvous`,
    host:port) and the checkpoint that all of them start from.
    """

    max_seconds: float
    max_memory_bytes: int | None
    retry_oom: bool
    cancel: bool = False
    force: bool = False
    pause: bool = False
    preempt: bool = False
    saves: int = 0
    members: tuple[Member, ...] = ()
    dismissed: bool = False
    rendezvous: str | None = None
    resumed_from: str | None = None

    @classmethod
    def at_claim(cls, job: Job) -> "Orders":
        """Those of a job that was just claimed."""
        return cls(job.max_seconds, job.max_memory_bytes, job.retry_oom, saves=job.checkpoint_requests)

    @property
    def stop(self) -> bool:
        """Whether the trainer is to save and stop between two steps, for whichever reason."""
        return self.cancel or self.pause or self.preempt or self.leaving

    @property
    def leaving(self) -> bool:
        """Whether a member's worker is told to stop."""
        return any(member.state is Seat.LEAVING for member in self.members)


def orders_of(connection: Connection, job_id: str, token: str) -> Orders:
    """What callers have asked of a running job by now, inside a transaction. Raises `LeaseLost`."""
    asked = (jobs.c.cancel_requested_at, jobs.c.cancel_forced, jobs.c.pause_requested_at, jobs.c.checkpoint_requests)
    limits = (jobs.c.max_seconds, jobs.c.max_memory_bytes, jobs.c.retry_oom)
    gang = (jobs.c.nodes, jobs.c.attempt, attempts.c.dismissed, attempts.c.rendezvous, attempts.c.resumed_from)
    query = select(*asked, *limits, *gang, attempts.c.preempted_for).join(attempts, attempts.c.token == jobs.c.token)
    row = connection.execute(query.where(jobs.c.id == job_id, jobs.c.token == token)).one_or_none()
    if row is None:
        raise LeaseLost(f"{job_id}: this attempt no longer holds the job")
    its = (members.c.job_id == job_id) & (members.c.attempt == row.attempt)
    return Orders(
        cancel=row.cancel_requested_at is not None,
        force=row.cancel_forced,
        pause=row.pause_requested_at is not None,
        preempt=row.preempted_for is not None,
        saves=row.checkpoint_requests,
        max_seconds=row.max_seconds,
        max_memory_bytes=row.max_memory_bytes,
        retry_oom=row.retry_oom,
        members=tuple(members_of(connection, its)) if row.nodes > 1 else (),
        dismissed=row.dismissed,
        rendezvous=row.rendezvous,
        resumed_from=row.resumed_from,
    )
