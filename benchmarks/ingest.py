"""Metric points per second into PostgreSQL: from a trainer's spool, by the supervisor's shipper, to the commit.

Against `log-batch` of an MLflow server on the same PostgreSQL, in batches of the thousand that it takes at most.
"""

import json
import math
import statistics
import threading
import time
from pathlib import Path

import httpx

from benchmarks.environments import Missing
from benchmarks.figure import Figure
from benchmarks.servers import mlflow, postgres, tables
from core.claims import Claim, Claims
from core.database import Database
from core.fleet import Fleet
from core.ids import new_id
from core.job import NewJob
from core.jobs import Jobs
from core.metrics import Metrics
from core.security import authenticate
from core.settings import Settings
from core.storage import Store
from workers.rundir import Order, RunDir
from workers.ship import Shipper
from workers.trainer.spool import Spool

ROUNDS = 3
NAMES = [f"group/metric_{number}" for number in range(10)]
STEPS = 30_000
THEIR_BATCHES = 4
BATCH_POINTS = 1_000
AIM_PER_SECOND = 50_000
AIM_RATIO = 50
FIRST_SECONDS = 120.0


def measure(folder: Path) -> list[Figure]:
    """Rounds of ours and theirs by turns."""
    ours: list[float] = []
    theirs: list[float] = []
    note = "one core's worth of Python that reads, checks and packs each point; PostgreSQL idles"
    with tables(postgres(), folder) as (database, _, key):
        project = authenticate(database, key).project_id
        try:
            with mlflow(postgres(), folder) as (address, _), httpx.Client(base_url=address, trust_env=False) as client:
                client.timeout = FIRST_SECONDS
                _log_batches(client, 1)
                for turn in range(ROUNDS):
                    theirs.append(_log_batches(client, THEIR_BATCHES))
                    ours.append(_ship(database, project, folder / f"round-{turn}"))
        except Missing as error:
            note = str(error)
            ours += [_ship(database, project, folder / f"alone-{turn}") for turn in range(ROUNDS)]
    fast_enough = statistics.median(ours) >= AIM_PER_SECOND
    return [
        Figure(
            4,
            f"metric points into PostgreSQL, {len(NAMES)} names, {STEPS * len(NAMES):,} points a round",
            "points/s",
            ours,
            f"≥ {AIM_PER_SECOND:,}/s, ≥ {AIM_RATIO} ×",
            bool(theirs) and fast_enough and statistics.median(ours) >= AIM_RATIO * statistics.median(theirs),
            peer="MLflow log-batch",
            theirs=theirs,
            note=note,
        )
    ]


def _ship(database: Database, project_id: str, folder: Path) -> float:
    """Points per second of a spool that a trainer has filled, once the shipper begins to read it."""
    held = _claimed(database, project_id)
    config = Settings(home=folder)
    run = RunDir(config.runs_path / held.job.id / "attempt-1")
    run.create(Order(held.job.id, 1, {}, ["cpu:0"], []))
    spool = Spool(run.spool)
    for step in range(STEPS):
        spool.metrics({name: math.sin(step) + place for place, name in enumerate(NAMES)}, step, step // 1000)
    spool.flush()
    shipper = Shipper(database, Store(config.storage), config, held, run, threading.Event())
    began = time.perf_counter()
    shipper.start()
    assert shipper.finish(threading.Event()), "all was shipped"
    seconds = time.perf_counter() - began
    assert {one.count for one in Metrics(database).summaries(held.job.id)} == {STEPS}
    return STEPS * len(NAMES) / seconds


def _claimed(database: Database, project_id: str) -> Claim:
    new = NewJob({}, ["m.Net"], "auto", 1, 3600.0, 1)
    with database.write() as connection:
        Jobs(database).create(connection, project_id, new)
    worker_id = new_id("wrk")
    Fleet(database).join(worker_id, "box", 1, [{"id": "cpu:0", "name": "d", "memory_bytes": 1}], {})
    held = Claims(database).claim(worker_id, "box", 3600.0, lambda _: True)
    assert held is not None
    return held


def _log_batches(client: httpx.Client, count: int) -> float:
    """Points per second of one client that logs batch after batch to a new run."""
    made = client.post("/api/2.0/mlflow/runs/create", json={"experiment_id": "0"})
    run_id = made.raise_for_status().json()["run"]["info"]["run_id"]
    bodies = []
    for batch in range(count):
        points = [
            {"key": NAMES[index % len(NAMES)], "value": math.sin(index), "timestamp": 1_700_000_000_000 + index}
            | {"step": batch * BATCH_POINTS + index // len(NAMES)}
            for index in range(BATCH_POINTS)
        ]
        bodies.append(json.dumps({"run_id": run_id, "metrics": points}).encode())
    began = time.perf_counter()
    for body in bodies:
        answer = client.post(
            "/api/2.0/mlflow/runs/log-batch", content=body, headers={"Content-Type": "application/json"}
        )
        answer.raise_for_status()
    return count * BATCH_POINTS / (time.perf_counter() - began)
