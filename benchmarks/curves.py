"""Reading curves over HTTP: a series of a million points as a thousand, and a page of twenty jobs' curves.

Against MLflow's history in bulk on the same PostgreSQL, whose tables are filled by the database itself.
"""

import json
import time
from array import array
from collections.abc import Callable
from pathlib import Path

import httpx
from sqlalchemy import create_engine, insert, text

from benchmarks.api import api
from benchmarks.caller import Caller
from benchmarks.environments import Missing
from benchmarks.figure import Figure, percentile
from benchmarks.servers import mlflow, postgres, tables
from core.database import Database
from core.job import NewJob
from core.jobs import Jobs
from core.metric_chunk import Columns
from core.metrics import chunk_row
from core.security import authenticate
from core.tables import metric_chunks, metric_series
from tests.servers import BrokerServer

LONG = 1_000_000
SHOWN = 1_000
PAGE_JOBS = 20
PAGE_LENGTH = 50_000
PAGE_SHOWN = 200
SAMPLES = 40
THEIR_SAMPLES = 5
FIRST_AT = 1_700_000_000_000_000
"""Unix time of the first point, in microseconds; one follows each 20 ms."""
FIRST_SECONDS = 180.0
AIM_LONG_MILLISECONDS = 30.0
AIM_PAGE_MILLISECONDS = 100.0
NOTE = "the database joins {} chunks of 256 points into buckets; then JSON"


def measure(folder: Path) -> list[Figure]:
    """Requests one after the other, ours first, then theirs."""
    broker = BrokerServer()
    try:
        with tables(postgres(), folder) as (database, url, key):
            jobs = _fill(database, authenticate(database, key).project_id)
            with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.exec_driver_sql("VACUUM ANALYZE")  # as its autovacuum would have done by then
            with api(url, broker.url, folder) as address:
                ours = _ours(Caller(address, {"Authorization": f"Bearer {key}"}), jobs)
            missing = ""
            theirs: tuple[list[float], list[float]] = ([], [])
            try:
                with mlflow(postgres(), folder) as (address, other):
                    theirs = _theirs(address, other)
            except Missing as error:
                missing = str(error)
    finally:
        broker.close()
    rows = [
        (f"a series of {LONG:,} points as {SHOWN:,}: p95", AIM_LONG_MILLISECONDS, LONG),
        (
            f"{PAGE_JOBS} jobs' curves, {PAGE_LENGTH:,} points each, as {PAGE_SHOWN} each: p95",
            AIM_PAGE_MILLISECONDS,
            PAGE_LENGTH * PAGE_JOBS,
        ),
    ]
    return [
        Figure(
            5,
            what,
            "ms",
            [percentile(found, 0.95)],
            f"≤ {aim:g} ms",
            percentile(found, 0.95) <= aim,
            peer="MLflow get-history-bulk-interval, median",
            theirs=peer,
            note=missing or NOTE.format(f"{points // 256:,}"),
        )
        for (what, aim, points), found, peer in zip(rows, ours, theirs, strict=True)
    ]


def _fill(database: Database, project_id: str) -> list[str]:
    """One job with a long series and the jobs of a page; the long one's id first."""
    made = []
    for length in (LONG, *[PAGE_LENGTH] * PAGE_JOBS):
        with database.write() as connection:
            job = Jobs(database).create(connection, project_id, NewJob({}, ["m.Net"], "auto", 1, 3600.0, 1))
            made.append(job.id)
            series = insert(metric_series).values(job_id=job.id, name="loss").returning(metric_series.c.id)
            series_id = connection.execute(series).scalar_one()
            steps = range(length)
            columns = Columns(
                array("q", steps),
                array("i", [step // 1000 for step in steps]),
                array("d", [1.0 / (step + 1) for step in steps]),
                array("q", [FIRST_AT + 20_000 * step for step in steps]),
            )
            connection.execute(insert(metric_chunks), [chunk_row(series_id, chunk) for chunk in columns.chunks()])
    return made


def _ours(caller: Caller, jobs: list[str]) -> tuple[list[float], list[float]]:
    asked = json.dumps({"job_ids": jobs[1:], "names": ["loss"], "max_points": PAGE_SHOWN}).encode()

    def one() -> None:
        found = caller.json("GET", f"/v1/jobs/{jobs[0]}/metrics/loss?max_points={SHOWN}")
        assert SHOWN * 0.9 <= len(found["points"]) <= SHOWN
        assert found["points"][-1]["step"] == LONG - 1

    def page() -> None:
        found = caller.json("POST", "/v1/metrics:query", asked, **{"Content-Type": "application/json"})["data"]
        assert len(found) == PAGE_JOBS
        assert all(PAGE_SHOWN * 0.5 <= len(series["points"]) <= PAGE_SHOWN for series in found)

    return _milliseconds(one, SAMPLES), _milliseconds(page, SAMPLES)


def _theirs(address: str, database_url: str) -> tuple[list[float], list[float]]:
    with httpx.Client(base_url=address, trust_env=False, timeout=FIRST_SECONDS) as client:
        runs = []
        for _ in range(PAGE_JOBS + 1):
            made = client.post("/api/2.0/mlflow/runs/create", json={"experiment_id": "0"})
            runs.append(made.raise_for_status().json()["run"]["info"]["run_id"])
        engine = create_engine(database_url)
        insert = text(
            "INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) "
            "SELECT 'loss', 1.0 / (n + 1), 1700000000000 + n * 20, :run, n, false FROM generate_series(0, :last) n"
        )
        with engine.begin() as connection:
            for run, length in zip(runs, (LONG, *[PAGE_LENGTH] * PAGE_JOBS), strict=True):
                connection.execute(insert, {"run": run, "last": length - 1})
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM ANALYZE")
        engine.dispose()

        def history(of: list[str], most: int) -> None:
            parameters: list[tuple[str, str]] = [("run_ids", run) for run in of]
            parameters += [("metric_key", "loss"), ("max_results", str(most))]
            answer = client.get("/ajax-api/2.0/mlflow/metrics/get-history-bulk-interval", params=parameters)
            assert len(answer.raise_for_status().json()["metrics"]) >= most * len(of) * 0.5

        one = _milliseconds(lambda: history(runs[:1], SHOWN), THEIR_SAMPLES)
        return one, _milliseconds(lambda: history(runs[1:], PAGE_SHOWN), THEIR_SAMPLES)


def _milliseconds(ask: Callable[[], None], count: int) -> list[float]:
    """Time of each of so many requests, after one that warms up."""
    ask()
    found = []
    for _ in range(count):
        began = time.perf_counter()
        ask()
        found.append((time.perf_counter() - began) * 1000)
    return found
