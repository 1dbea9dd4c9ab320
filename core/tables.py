"""The tables, for SQLite and PostgreSQL alike. Rows become frozen dataclasses in the stores; no table leaves `core`."""

import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)


class Instant(TypeDecorator[datetime]):
    """A moment in UTC: `timestamptz` on PostgreSQL, text on SQLite, an aware datetime in Python on both."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """SQLite has no time zones: it gets UTC, said nowhere."""
        if value is None or dialect.name != "sqlite":
            return value
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """An aware datetime in UTC, whatever the driver gave."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Real(TypeDecorator[float]):
    """A double. SQLite keeps NaN as NULL, so both databases do; reading gives NaN back."""

    impl = Double
    cache_ok = True

    def process_bind_param(self, value: float | None, dialect: Dialect) -> float | None:
        """NaN goes in as NULL."""
        return None if value is None or math.isnan(value) else value

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], float]:
        """NULL comes out as NaN."""
        return lambda value: float("nan") if value is None else float(value)


Serial = BigInteger().with_variant(Integer, "sqlite")
Id = String(40)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

projects = Table(
    "projects",
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", String(200), nullable=False, unique=True),
    Column("created_at", Instant, nullable=False),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Id, primary_key=True),
    Column("project_id", Id, ForeignKey("projects.id", ondelete="CASCADE"), nullable=False),
    Column("digest", String(64), nullable=False, unique=True),  # sha256 of the key; the key itself is kept nowhere
    Column("created_at", Instant, nullable=False),
    Column("revoked_at", Instant),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("api_key_id", Id, ForeignKey("api_keys.id", ondelete="CASCADE"), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("request_digest", String(64), nullable=False),
    Column("status", Integer, nullable=False),
    Column("location", String(300), nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("created_at", Instant, nullable=False, index=True),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", Id, primary_key=True),
    Column("project_id", Id, ForeignKey("projects.id"), nullable=False),
    Column("parent_id", Id),
    Column("name", String(200)),
    Column("labels", JSON, nullable=False),
    Column("subcommand", String(20), nullable=False),
    Column("config", JSON, nullable=False),
    Column("class_paths", JSON, nullable=False),  # what a worker's catalogue must have to run it
    Column("accelerator", String(20), nullable=False),
    Column("devices", Integer, nullable=False),  # on each machine
    Column("nodes", Integer, nullable=False),  # machines
    Column("start_checkpoint_id", Id),  # to go on from, when it starts
    Column("weights_checkpoint_id", Id),  # whose weights it starts with
    Column("stop_on_nan", Boolean, nullable=False),
    Column("dry_run", Boolean, nullable=False),
    Column("summary", JSON(none_as_null=True)),  # what its trainer found it to be
    Column("priority", Integer, nullable=False),
    Column("max_seconds", Double, nullable=False),
    Column("max_attempts", Integer, nullable=False),
    Column("max_memory_bytes", BigInteger),
    Column("retry_oom", Boolean, nullable=False),
    Column("status", String(20), nullable=False),
    Column("phase", String(20)),
    Column("reason", JSON(none_as_null=True)),
    Column("progress", JSON(none_as_null=True)),
    Column("metrics", JSON, nullable=False),  # newest value of each name
    Column("attempt", Integer, nullable=False),
    Column("attempts_spent", Integer, nullable=False),  # those that count against max_attempts
    Column("token", String(64)),  # fencing token of the live attempt
    Column("seconds_spent", Double, nullable=False),  # running time of ended attempts, against max_seconds
    Column("best_checkpoint_id", Id),
    Column("last_checkpoint_id", Id),
    Column("cancel_requested_at", Instant),
    Column("cancel_forced", Boolean, nullable=False),
    Column("pause_requested_at", Instant),
    Column("checkpoint_requested_at", Instant),
    Column("checkpoint_requests", Integer, nullable=False),  # how many there have been: a trainer saves when it grows
    Column("version", BigInteger, nullable=False),
    Column("available_at", Instant, nullable=False),  # not claimed before, by backoff
    Column("created_at", Instant, nullable=False),
    Column("started_at", Instant),
    Column("finished_at", Instant),
    Index("ix_jobs_project_id", "project_id", "id"),
    Index("ix_jobs_project_status", "project_id", "status", "id"),
)

# The order in which each project's jobs are claimed; the last three columns spare the rows that a worker's devices or
# the backoff rule out.
Index(
    "ix_jobs_queue",
    jobs.c.status,
    jobs.c.project_id,
    jobs.c.priority.desc(),
    jobs.c.id,
    jobs.c.accelerator,
    jobs.c.devices,
    jobs.c.available_at,
)
# Whether a job is to start from a checkpoint is asked before each that goes.
for _origin in ("start_checkpoint_id", "weights_checkpoint_id"):
    _given = text(f"{_origin} IS NOT NULL")
    Index(f"ix_jobs_{_origin}", jobs.c[_origin], sqlite_where=_given, postgresql_where=_given)
# The few that wait for several machines, which every claim asks for.
SEVERAL = text("nodes > 1")
Index("ix_jobs_gangs", jobs.c.status, jobs.c.priority.desc(), jobs.c.id, sqlite_where=SEVERAL, postgresql_where=SEVERAL)
# What waits, whoever it belongs to, in the order in which it is due; the last three columns as above.
WAITING = text("status = 'queued'")
Index(
    "ix_jobs_waiting",
    jobs.c.priority.desc(),
    jobs.c.id,
    jobs.c.accelerator,
    jobs.c.devices,
    jobs.c.available_at,
    sqlite_where=WAITING,
    postgresql_where=WAITING,
)
# Those of a name, by age.
_NAMED = text("name IS NOT NULL")
Index("ix_jobs_name", jobs.c.project_id, jobs.c.name, jobs.c.id, sqlite_where=_NAMED, postgresql_where=_NAMED)
# And the dry runs, which are forgotten some time after their end.
DRY_RUNS = text("dry_run")
Index("ix_jobs_dry_runs", jobs.c.finished_at, sqlite_where=DRY_RUNS, postgresql_where=DRY_RUNS)

job_labels = Table(
    "job_labels",
    metadata,
    Column("job_id", Id, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("key", String(63), primary_key=True),
    Column("value", String(255), nullable=False),
    Index("ix_job_labels_key_value", "key", "value", "job_id"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("job_id", Id, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("token", String(64), nullable=False, unique=True),
    Column("worker_id", Id, nullable=False),
    Column("worker", String(255), nullable=False),
    Column("devices", JSON, nullable=False),
    Column("lease_seconds", Double, nullable=False),
    Column("renewals", Integer, nullable=False),  # a lease is over when it has not grown for so long
    Column("started_at", Instant, nullable=False),
    Column("ended_at", Instant),
    Column("outcome", String(20)),
    Column("resume", String(20)),
    Column("resumed_from", Id),
    Column("steps_lost", Integer),
    Column("spool_offset", BigInteger, nullable=False),  # how much of the trainer's spool is in the database
    Column("preempted_for", Id),  # the job of higher priority that is to have its devices
    Column("rendezvous", String(255)),  # host:port at which the machines of a job of several meet
    Column("dismissed", Boolean, nullable=False),  # its members are to end
    # That no job ever has two live attempts is held by the database itself.
    Index(
        "uq_attempts_live",
        "job_id",
        unique=True,
        sqlite_where=text("ended_at IS NULL"),
        postgresql_where=text("ended_at IS NULL"),
    ),
)

# The further machines of an attempt on several; that of node rank 0 is the attempt's own.
members = Table(
    "members",
    metadata,
    Column("job_id", Id, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("node_rank", Integer, primary_key=True),
    Column("worker_id", Id, nullable=False),
    Column("worker", String(255), nullable=False),
    Column("devices", JSON, nullable=False),
    Column("state", String(20), nullable=False),
    Column("lease_seconds", Double, nullable=False),
    Column("renewals", Integer, nullable=False),
    Column("end", JSON(none_as_null=True)),  # how it ended, as its worker saw it
    Index("ix_members_worker_id", "worker_id", "state"),
)

device_claims = Table(
    "device_claims",
    metadata,
    Column("worker_id", Id, primary_key=True),
    Column("device", String(40), primary_key=True),  # its primary key is why two jobs never share a device
    Column("job_id", Id, ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("attempt", Integer, nullable=False),
)

events = Table(
    "events",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    Column("job_id", Id, ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    Column("type", String(40), nullable=False),
    Column("at", Instant, nullable=False),
    Column("data", JSON, nullable=False),
    Index("ix_events_job_id", "job_id", "id"),
    sqlite_autoincrement=True,  # ids are never used twice
)

metric_series = Table(
    "metric_series",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    Column("job_id", Id, ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    Column("name", String(255), nullable=False),
    UniqueConstraint("job_id", "name"),
)

# Points of a series that follow one another, none shared with another chunk of it; `core.metric_chunk` packs them.
metric_chunks = Table(
    "metric_chunks",
    metadata,
    Column("series_id", Serial, ForeignKey("metric_series.id", ondelete="CASCADE"), primary_key=True),
    Column("first_step", BigInteger, primary_key=True),
    Column("last_step", BigInteger, nullable=False),
    Column("point_count", Integer, nullable=False),
    Column("low", Double),  # least and greatest value, NaN left out
    Column("high", Double),
    Column("last", Real),  # the point at last_step
    Column("last_epoch", Integer),
    Column("last_at", Instant, nullable=False),
    Column("points", LargeBinary, nullable=False),  # at the end: reading what stands before need not pass over it
)

log_chunks = Table(
    "log_chunks",
    metadata,
    Column("job_id", Id, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("offset", BigInteger, primary_key=True),
    Column("length", Integer, nullable=False),
    Column("data", LargeBinary, nullable=False),
)

# The same of the ranks behind the first, whose log is the job's own.
rank_log_chunks = Table(
    "rank_log_chunks",
    metadata,
    Column("job_id", Id, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("rank", Integer, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("offset", BigInteger, primary_key=True),
    Column("length", Integer, nullable=False),
    Column("data", LargeBinary, nullable=False),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("id", Id, primary_key=True),
    Column("job_id", Id, ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("kind", String(20), nullable=False),
    Column("name", String(255), nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("metrics", JSON, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("storage_key", String(500), nullable=False),
    Column("pinned", Boolean, nullable=False),
    Column("let_go", Boolean, nullable=False),  # its run keeps it no more; it goes once no job is to start from it
    Column("created_at", Instant, nullable=False),
    Index("ix_checkpoints_job_id", "job_id", "id"),
    Index("ix_checkpoints_let_go", "id", sqlite_where=text("let_go = 1"), postgresql_where=text("let_go")),
)

artifacts = Table(
    "artifacts",
    metadata,
    Column("id", Id, primary_key=True),
    Column("job_id", Id, ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("name", String(500), nullable=False),
    Column("media_type", String(100), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("storage_key", String(700), nullable=False),
    Column("created_at", Instant, nullable=False),
    UniqueConstraint("job_id", "name"),
)

catalogs = Table(
    "catalogs",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("body", Text, nullable=False),
    Column("announced_at", Instant, nullable=False),
)

workers = Table(
    "workers",
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", String(255), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("devices", JSON, nullable=False),
    Column("versions", JSON, nullable=False),
    Column("address", String(255), nullable=False),  # where other machines reach its trainers
    Column("accepts", Boolean, nullable=False),  # others may call it to a job of several machines
    Column("catalog_digest", String(64)),
    Column("started_at", Instant, nullable=False),
    Column("heartbeat_at", Instant, nullable=False, index=True),
    Column("stopped_at", Instant),
)
