"""Databases that have been in use for years: jobs by the million, made by the database itself within a minute."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Table, case, cast, func, insert, literal, null, select

from benchmarks import digits
from benchmarks.api import catalog
from core.database import Database
from core.defaults import resolved
from core.ids import new_id
from core.job import NewJob
from core.jobs import Jobs
from core.metric_chunk import Columns, moment, pack
from core.states import Status
from core.tables import (
    Instant,
    attempts,
    device_claims,
    events,
    job_labels,
    jobs,
    metric_chunks,
    metric_series,
    projects,
)

LEASE_SECONDS = 7 * 86400.0
"""Nobody renews the leases of these jobs, and they are to run for as long as they are measured."""
TEAMS = 10
"""Values of the label `team`."""
NAMESAKES = 20
"""Jobs of one name, which have a value of the label `study` in common too."""
SERIES_POINTS = 1_000
WORKER = "wrk_00000000000000000000000000"
ALL = sa.true()
FILLED = (jobs, job_labels, attempts, device_claims, events)
HASTE = ("session_replication_role = replica", "statement_timeout = 0", "maintenance_work_mem = '256MB'")
"""On PostgreSQL: rows that are known to fit are not looked up one by one, and indexes are sorted in memory."""


@dataclass(frozen=True, slots=True)
class Population:
    """How many jobs there are: the newest `queued` of them wait, the `running` before those run, the rest has ended."""

    jobs: int
    queued: int
    running: int
    projects: int = 8

    @property
    def started(self) -> int:
        """The number of the newest job that has been started."""
        return self.jobs - self.queued

    @property
    def ended(self) -> int:
        """The number of the newest job that has ended."""
        return self.started - self.running

    @property
    def studies(self) -> int:
        """How many names there are."""
        return max(1, self.jobs // NAMESAKES)


def id_of(number: int) -> str:
    """The id of a job by its number, counted by age from 1: all are older than those that are made from now on."""
    return f"job_00{number:024}"


def fill(database: Database, project_id: str, population: Population) -> None:
    """Make the jobs, with labels, attempts, devices and events; every other one belongs to `project_id`.

    They are copies of one digits job that came in by the front door, so their rows are as large.
    """
    config, classes = resolved(digits.config(), catalog())
    new = NewJob(config, sorted(classes), "auto", 1, 86400.0, 5, name="digits")
    others = [new_id("proj") for _ in range(population.projects - 1)]
    with database.write() as connection, ExitStack() as after:
        at = database.now(connection)
        now = literal(at, Instant())
        if others:
            connection.execute(insert(projects), [{"id": one, "name": one, "created_at": at} for one in others])
        template = Jobs(database).create(connection, project_id, new).id
        _hasten(database, connection, after, FILLED)
        n, numbers = _numbers(population.jobs)
        started, ended = n <= population.started, n <= population.ended
        runs = started & ~ended
        owners = [project_id if index % 2 else (others or [project_id])[index // 2] for index in range(2 * len(others))]
        changed = {
            "id": _id(n),
            "project_id": case(*[(n % len(owners) == i, owner) for i, owner in enumerate(owners)], else_=project_id),
            "name": literal("digits-") + _text(n % population.studies),
            "labels": _json(database, literal('{"team": "') + _team(n) + literal('"}')),
            "status": _status(n, population),
            "phase": case((runs, "training"), else_=null()),
            "token": case((runs, _token(n)), else_=null()),
            "attempt": case((started, 1), else_=0),
            "attempts_spent": case((started, 1), else_=0),
            "metrics": _json(database, literal('{"train_loss": 0.0312, "val_acc": 0.9876, "val_loss": 0.0712}')),
            "started_at": case((started, now), else_=null()),
            "finished_at": case((ended, now), else_=null()),
        }
        _copy(connection, jobs, numbers, changed, jobs.c.id == template)
        connection.execute(jobs.delete().where(jobs.c.id == template))
        for key, value in (("team", _team(n)), ("study", _text(n % population.studies))):
            _insert(connection, job_labels, numbers, {"job_id": _id(n), "key": literal(key), "value": value})
        tried = {
            "job_id": _id(n),
            "number": literal(1),
            "token": _token(n),
            "worker_id": literal(WORKER),
            "worker": literal("box"),
            "devices": _json(database, literal('["gpu:0"]')),
            "lease_seconds": literal(LEASE_SECONDS),
            "renewals": literal(0),
            "started_at": now,
            "ended_at": case((ended, now), else_=null()),
            "outcome": case((ended, _status(n, population)), else_=null()),
            "spool_offset": literal(100_000),
            "dismissed": sa.false(),
        }
        _insert(connection, attempts, numbers, tried, started)
        device = literal("gpu:") + _text(n)
        held = {"worker_id": literal(WORKER), "device": device, "job_id": _id(n), "attempt": literal(1)}
        _insert(connection, device_claims, numbers, held, runs)
        for kind, which in (("created", ALL), ("finished", ended)):
            told = {"job_id": _id(n), "type": literal(kind), "at": now, "data": _json(database, literal("{}"))}
            _insert(connection, events, numbers, told, which)
    _settle(database)


def fill_metrics(database: Database, population: Population, points: int) -> None:
    """Give each job series of `SERIES_POINTS` points, as if it had logged one a step, until there are so many."""
    at = datetime(2026, 1, 1, tzinfo=UTC)
    series = Columns.empty()
    for step in range(SERIES_POINTS):
        series.add(step, step // 23, 2.3 / (1 + step), at + timedelta(milliseconds=11 * step))
    columns = [column for column in metric_chunks.c if column.name != "series_id"]
    packed = [_chunk(chunk) for chunk in series.chunks()]
    rows = [tuple(chunk[column.name] for column in columns) for chunk in packed]
    each = sa.values(*[sa.column(column.name, column.type) for column in columns], name="each").data(rows)
    n, numbers = _numbers(points // SERIES_POINTS)
    with database.write() as connection, ExitStack() as after:
        _hasten(database, connection, after, ())
        name = literal("metric-") + _text((n - 1) // population.jobs)
        _insert(connection, metric_series, numbers, {"job_id": _id((n - 1) % population.jobs + 1), "name": name})
        values = {"series_id": metric_series.c.id} | {column.name: each.c[column.name] for column in columns}
        _insert(connection, metric_chunks, metric_series.join(each, ALL), values)
    _settle(database)


def _chunk(chunk: Columns) -> dict[str, Any]:
    low, high = chunk.extremes()
    return {
        "first_step": chunk.steps[0],
        "last_step": chunk.steps[-1],
        "point_count": len(chunk),
        "low": low,
        "high": high,
        "last": chunk.values[-1],
        "last_epoch": chunk.epoch(-1),
        "last_at": moment(chunk.at[-1]),
        "points": pack(chunk),
    }


def _settle(database: Database) -> None:
    """What its autovacuum has long done in a database that grew so large by and by."""
    if database.is_sqlite:
        return
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("SET statement_timeout = 0")
        connection.exec_driver_sql("VACUUM ANALYZE")
        connection.exec_driver_sql("RESET statement_timeout")


def _hasten(database: Database, connection: Connection, after: ExitStack, filled: Sequence[Table]) -> None:
    """Have rows written without a look at each, and the indexes of the tables made once they are there."""
    if database.is_sqlite:
        driver: Any = connection.connection.driver_connection
        driver.create_function("lpad", 3, lambda text, width, with_: str(text).rjust(width, with_))
        return
    for setting in HASTE:
        connection.exec_driver_sql(f"SET LOCAL {setting}")
    for index in [index for table in filled for index in table.indexes]:
        index.drop(connection)
        after.callback(index.create, connection)


def _numbers(count: int) -> tuple[Any, Any]:
    one = select(literal(1).label("n")).cte("numbers", recursive=True)
    numbers = one.union_all(select(one.c.n + 1).where(one.c.n < count))
    return numbers.c.n, numbers


def _insert(connection: Connection, table: Table, numbers: Any, values: Mapping[str, Any], where: Any = ALL) -> None:
    rows = select(*values.values()).select_from(numbers).where(where)
    connection.execute(insert(table).from_select(list(values), rows))


def _copy(connection: Connection, table: Table, numbers: Any, changed: Mapping[str, Any], which: Any) -> None:
    template = select(table).where(which).subquery()
    values = {column.name: changed.get(column.name, template.c[column.name]) for column in table.c}
    _insert(connection, table, numbers.join(template, sa.true()), values)


def _id(n: Any) -> Any:
    return literal("job_00") + func.lpad(_text(n), 24, "0")


def _token(n: Any) -> Any:
    return literal("token-") + func.lpad(_text(n), 26, "0")


def _team(n: Any) -> Any:
    return literal("team-") + _text(n % TEAMS)


def _text(value: Any) -> Any:
    return cast(value, sa.String)


def _json(database: Database, text: Any) -> Any:
    return text if database.is_sqlite else cast(text, sa.JSON)


def _status(n: Any, population: Population) -> Any:
    """Of those that have ended, one in eight failed and one in sixteen was cancelled."""
    return case(
        (n > population.started, literal(Status.QUEUED.value)),
        (n > population.ended, literal(Status.RUNNING.value)),
        (n % 16 == 3, literal(Status.CANCELLED.value)),
        (n % 8 == 5, literal(Status.FAILED.value)),
        else_=literal(Status.SUCCEEDED.value),
    )
