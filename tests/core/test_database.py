import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest
from alembic import command
from sqlalchemy import func, insert, inspect, select, text, update

from core.attempts import Attempts, Retry
from core.database import Database, alembic_config, downgrade, upgrade
from core.ids import is_id, new_id
from core.job import read_job
from core.metrics import Logged, Metrics
from core.states import Status
from core.tables import metadata, projects


def test_migrations_go_up_down_and_up_again_and_match_the_tables(database_url: str) -> None:
    database = Database(database_url)
    upgrade(database)
    with warnings.catch_warnings():
        # SQLite cannot reflect an index on an expression (the queue's, by priority DESC), so it cannot be compared.
        warnings.filterwarnings("ignore", message="autogenerate skipping metadata-specified expression-based index")
        command.check(alembic_config(database))
    assert set(inspect(database.engine).get_table_names()) == {*metadata.tables, "alembic_version"}
    downgrade(database, "base")
    assert set(inspect(database.engine).get_table_names()) == {"alembic_version"}
    upgrade(database)
    assert set(inspect(database.engine).get_table_names()) == {*metadata.tables, "alembic_version"}
    database.close()


OLD_ROWS = {
    "projects": {"id": "p", "name": "n", "created_at": "2026-01-02 03:04:05"},
    "jobs": {
        "id": "j",
        "project_id": "p",
        "labels": "{}",
        "subcommand": "fit",
        "config": "{}",
        "class_paths": "[]",
        "accelerator": "cpu",
        "devices": 1,
        "priority": 0,
        "max_seconds": 60,
        "max_attempts": 3,
        "status": "running",
        "metrics": "{}",
        "attempt": 1,
        "attempts_spent": 1,
        "token": "t",
        "seconds_spent": 0,
        "cancel_forced": False,
        "version": 2,
        "available_at": "2026-01-02 03:04:05",
        "created_at": "2026-01-02 03:04:05",
    },
    "job_labels": {"job_id": "j", "key": "k", "value": "v"},
    "attempts": {
        "job_id": "j",
        "number": 1,
        "token": "t",
        "worker_id": "w",
        "worker": "box",
        "devices": '["cpu:0"]',
        "lease_expires_at": "2026-01-02 03:04:05",
        "started_at": "2026-01-02 03:04:05",
        "spool_offset": 7,
    },
    "device_claims": {"worker_id": "w", "device": "cpu:0", "job_id": "j", "attempt": 1},
    "events": {"job_id": "j", "type": "created", "at": "2026-01-02 03:04:05", "data": "{}"},
    "log_chunks": {"job_id": "j", "attempt": 1, "offset": 0, "length": 1, "data": b"x"},
}
"""A row of each table that hangs on a job, as the first version of the schema has them."""


def test_metric_points_come_along_and_back(database_url: str) -> None:
    database = Database(database_url)
    upgrade(database, "0003")
    rows = [
        {"step": step, "epoch": None if step < 9 else step // 9, "value": None if step == 8 else step / 3, "at": minute}
        for step, minute in [(step, f"2026-01-02 03:{step % 60:02}:05.123456") for step in range(0, 1400, 2)]
    ]
    with database.write() as connection:
        columns = ", ".join(OLD_ROWS["projects"])
        connection.execute(
            text(f"INSERT INTO projects ({columns}) VALUES (:id, :name, :created_at)"), OLD_ROWS["projects"]
        )
        job = (
            OLD_ROWS["jobs"]
            | {"nodes": 1, "stop_on_nan": False, "dry_run": False, "checkpoint_requests": 0}
            | {"retry_oom": False}
        )
        names = ", ".join(job)
        connection.execute(text(f"INSERT INTO jobs ({names}) VALUES ({', '.join(f':{name}' for name in job)})"), job)
        connection.execute(text("INSERT INTO metric_series (id, job_id, name) VALUES (5, 'j', 'loss')"))
        insert_point = (
            "INSERT INTO metric_points (series_id, step, epoch, value, at) VALUES (5, :step, :epoch, :value, :at)"
        )
        connection.execute(text(insert_point), rows)
        everything = text("SELECT * FROM metric_points ORDER BY step")
        before = [tuple(row) for row in connection.execute(everything)]
    upgrade(database)
    series = Metrics(database).series("j", "loss")
    assert series is not None
    assert [(one.step, one.epoch) for one in series.points] == [(row["step"], row["epoch"]) for row in rows]
    assert str(series.points[-1].at) == f"{rows[-1]['at']}+00:00"
    (summary,) = Metrics(database).summaries("j")
    assert (summary.count, summary.min, summary.max) == (700, 0.0, 1398 / 3)
    with database.write() as connection:
        Metrics(database).add(connection, "j", [Logged(1400, 1, series.points[-1].at, {"loss": 1.0})], 10)
    downgrade(database, "0003")
    with database.read() as connection:
        after = [tuple(row) for row in connection.execute(everything)]
    assert after[:-1] == before
    assert after[-1][:4] == (5, 1400, 1, 1.0)
    database.close()


def rows_by_table(database: Database) -> dict[str, list[dict[str, Any]]]:
    with database.read() as connection:
        return {
            name: [dict(row._mapping) for row in connection.execute(text(f"SELECT * FROM {name}"))] for name in OLD_ROWS
        }


def indexes(database: Database) -> list[str]:
    """Each index as the database itself words it, so that one made anew in another way is seen."""
    query = "SELECT sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
    if not database.is_sqlite:
        query = "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'"
    with database.read() as connection:
        return sorted(connection.execute(text(query)).scalars())


def test_a_running_job_and_all_that_hangs_on_it_survive_every_migration_both_ways(database_url: str) -> None:
    with closing(Database(database_url)) as database:
        upgrade(database, "0001")
        with database.write() as connection:
            for table, row in OLD_ROWS.items():
                names = ", ".join(f'"{name}"' for name in row)
                values = ", ".join(f":{name}" for name in row)
                connection.execute(text(f"INSERT INTO {table} ({names}) VALUES ({values})"), row)
        before, indexed = rows_by_table(database), indexes(database)

        upgrade(database)

        with database.write() as connection:
            job = read_job(connection, "j")
        (attempt,) = job.attempts_list
        assert (job.status, job.retry_oom, job.checkpoint_requests, job.pause_requested_at) == (
            Status.RUNNING,
            False,
            0,
            None,
        )
        assert (attempt.lease_seconds, attempt.renewals, attempt.ended_at, attempt.spool_offset) == (15.0, 0, None, 7)
        assert {name: len(rows) for name, rows in rows_by_table(database).items()} == dict.fromkeys(OLD_ROWS, 1)
        Attempts(database).renew("j", "t")
        (lease,) = Attempts(database).leases()
        assert Attempts(database).expire(lease, Retry(1.0, 1.0)) is Status.QUEUED

        downgrade(database, "0001")

        after = rows_by_table(database)
        assert indexes(database) == indexed
        assert set(after["jobs"][0]) == set(before["jobs"][0])
        assert set(after["attempts"][0]) == set(before["attempts"][0])
        assert after["jobs"][0]["status"] == "queued"
        assert str(after["attempts"][0]["lease_expires_at"]) < "2026", "who held it has lost it"
        assert after["job_labels"] == before["job_labels"]
        upgrade(database)
        with database.read() as connection:
            assert read_job(connection, "j").status is Status.QUEUED


def test_transactions_that_read_first_and_write_later_never_collide(database: Database) -> None:
    with database.write() as connection:
        connection.execute(insert(projects).values(id="p", name="0", created_at=database.now(connection)))

    def count_up(_: int) -> None:
        with database.write() as connection:
            value = connection.execute(select(projects.c.name).with_for_update()).scalar_one()
            connection.execute(update(projects).values(name=str(int(value) + 1)))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(count_up, range(80)))
    with database.read() as connection:
        assert connection.execute(select(projects.c.name)).scalar_one() == "80"


def test_an_error_rolls_everything_back(database: Database) -> None:
    def fail() -> None:
        with database.write() as connection:
            connection.execute(insert(projects).values(id="p", name="n", created_at=database.now(connection)))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with database.read() as connection:
        assert connection.execute(select(func.count()).select_from(projects)).scalar_one() == 0


def test_ids_are_ordered_by_time_and_known_by_their_form() -> None:
    ids = [new_id("job") for _ in range(50)]
    assert len(set(ids)) == 50
    assert [id_[:14] for id_ in ids] == sorted(id_[:14] for id_ in ids)
    assert all(is_id("job", id_) for id_ in ids)
    assert not any(
        is_id("job", wrong) for wrong in ["job_", "ckpt_" + ids[0][4:], ids[0] + "0", ids[0].upper(), "job_" + "u" * 26]
    )
