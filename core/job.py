"""A job and its attempts as their rows say, and how they are read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, select

from core.states import FINAL, Seat, Status
from core.tables import attempts, jobs, members


@dataclass(frozen=True, slots=True)
class Member:
    """A further machine of an attempt on several: its worker's seat there, with a lease of its own.

    `end` is how it ended, as its worker saw it: `status`, `code`, `message`, `traceback`, `costs`.
    """

    job_id: str
    attempt: int
    node_rank: int
    worker_id: str
    worker: str
    devices: list[str]
    state: Seat
    lease_seconds: float
    renewals: int
    end: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at running a job, on one worker or several, under one fencing token."""

    job_id: str
    number: int
    token: str
    worker_id: str
    worker: str
    devices: list[str]
    lease_seconds: float
    renewals: int
    started_at: datetime
    ended_at: datetime | None
    outcome: str | None
    resume: str | None
    resumed_from: str | None
    steps_lost: int | None
    spool_offset: int
    preempted_for: str | None
    rendezvous: str | None
    dismissed: bool
    members: tuple[Member, ...] = ()


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it stands; `attempts_list` is empty where the verb did not ask for them."""

    id: str
    project_id: str
    parent_id: str | None
    name: str | None
    labels: dict[str, str]
    subcommand: str
    config: dict[str, Any]
    class_paths: list[str]
    accelerator: str
    devices: int
    nodes: int
    start_checkpoint_id: str | None
    weights_checkpoint_id: str | None
    stop_on_nan: bool
    dry_run: bool
    summary: dict[str, Any] | None
    priority: int
    max_seconds: float
    max_attempts: int
    max_memory_bytes: int | None
    retry_oom: bool
    status: Status
    phase: str | None
    reason: dict[str, Any] | None
    progress: dict[str, Any] | None
    metrics: dict[str, Any]
    attempt: int
    attempts_spent: int
    token: str | None
    seconds_spent: float
    best_checkpoint_id: str | None
    last_checkpoint_id: str | None
    cancel_requested_at: datetime | None
    cancel_forced: bool
    pause_requested_at: datetime | None
    checkpoint_requested_at: datetime | None
    checkpoint_requests: int
    version: int
    available_at: datetime
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    attempts_list: tuple[Attempt, ...] = ()

    @property
    def is_final(self) -> bool:
        """Whether nothing can move it any more."""
        return self.status in FINAL


@dataclass(frozen=True, slots=True)
class Mark:
    """Whose a job is and how it stands, without what it is. Whatever is told of a job has changed its version."""

    project_id: str
    version: int
    status: Status

    @property
    def is_final(self) -> bool:
        """Whether nothing can move it any more."""
        return self.status in FINAL


@dataclass(frozen=True, slots=True)
class NewJob:
    """What a submission asks for, already validated. Times in seconds, memory in bytes.

    `devices` on each of `nodes` machines. `start_checkpoint_id`: go on from there, as Lightning's `ckpt_path`;
    `weights_checkpoint_id`: start with its weights alone.
    """

    config: dict[str, Any]
    class_paths: Sequence[str]
    accelerator: str
    devices: int
    max_seconds: float
    max_attempts: int
    max_memory_bytes: int | None = None
    retry_oom: bool = False
    name: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    subcommand: str = "fit"
    priority: int = 0
    parent_id: str | None = None
    nodes: int = 1
    start_checkpoint_id: str | None = None
    weights_checkpoint_id: str | None = None
    stop_on_nan: bool = False
    dry_run: bool = False


def read_job(connection: Connection, job_id: str) -> Job:
    """The job with its attempts, inside a transaction."""
    return as_job(
        connection.execute(select(jobs).where(jobs.c.id == job_id)).one(),
        attempts_of(connection, [job_id]).get(job_id, ()),
    )


def attempts_of(connection: Connection, job_ids: Sequence[str]) -> dict[str, tuple[Attempt, ...]]:
    """The attempts of some jobs, by job id, oldest first."""
    if not job_ids:
        return {}
    found: dict[str, tuple[Attempt, ...]] = {}
    theirs: dict[tuple[str, int], tuple[Member, ...]] = {}
    for member in members_of(connection, members.c.job_id.in_(job_ids)):
        key = member.job_id, member.attempt
        theirs[key] = (*theirs.get(key, ()), member)
    query = select(attempts).where(attempts.c.job_id.in_(job_ids)).order_by(attempts.c.job_id, attempts.c.number)
    for row in connection.execute(query):
        attempt = Attempt(**row._mapping, members=theirs.get((row.job_id, row.number), ()))
        found[row.job_id] = (*found.get(row.job_id, ()), attempt)
    return found


def members_of(connection: Connection, condition: ColumnElement[bool]) -> list[Member]:
    """The members that a condition holds for, by node rank."""
    query = select(members).where(condition).order_by(members.c.job_id, members.c.attempt, members.c.node_rank)
    return [Member(**{**row._mapping, "state": Seat(row.state)}) for row in connection.execute(query)]


def as_job(row: Any, tries: tuple[Attempt, ...] = ()) -> Job:
    """A row as what the stores hand out."""
    values = dict(row._mapping)
    values["status"] = Status(values["status"])
    return Job(**values, attempts_list=tries)
