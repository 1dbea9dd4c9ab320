"""GET /v1/jobs/{id} as a client polls it: whole, and with the `ETag` it has, from one API process.

64 kept connections, each polling a running job of its own as fast as it is answered. The peers are MLflow's `runs/get`
of a run with as many parameters and metrics, and, as the limit, a FastAPI route that does nothing, served in the same
way. Samples are taken by turns.
"""

import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import httpx
import orjson

from benchmarks.api import api
from benchmarks.caller import Caller
from benchmarks.empty_route import empty_route
from benchmarks.environments import Missing
from benchmarks.figure import Figure
from benchmarks.pollers import Polled, get, poll
from benchmarks.running import METRICS, running
from benchmarks.servers import mlflow, postgres, tables
from core.database import Database, upgrade
from core.security import first_start
from tests.servers import BrokerServer

LINES = 64
FEWER_LINES = 16
"""For a peer that 64 break."""
ROUNDS = 3
SECONDS = 2.5
AIM_OF_PEER = 20.0
AIM_OF_EMPTY = {304: 0.7, 200: 0.3}


def measure(folder: Path) -> list[Figure]:
    """Answers a second on both databases."""
    taken: dict[tuple[str, int], list[Polled]] = {}
    limit: list[Polled] = []
    theirs: list[Polled] = []
    with ExitStack() as opened:
        server = postgres()
        requests = _services(server, folder, opened)
        empty = opened.enter_context(empty_route())
        nothing = [get(empty, "/empty", {})] * LINES
        peer, peer_lines, why = _peer(server, folder, opened)
        for _ in range(ROUNDS):
            limit.append(poll(empty, nothing, SECONDS))
            for (name, status), (address, asked) in requests.items():
                taken.setdefault((name, status), []).append(_polled(address, asked, status))
            if peer is not None:
                theirs.append(poll(*peer, SECONDS))
    figures = []
    for (name, status), polled in taken.items():
        what = f"GET /v1/jobs/{{id}}, {status}, {LINES} connections, one API process; {name}"
        ours, at_most = [one.rate for one in polled], [one.rate for one in limit]
        share = statistics.median(ours) / statistics.median(at_most)
        aim = AIM_OF_EMPTY[status]
        figures.append(
            Figure(
                *(6, what, "answers/s", ours, f"≥ {aim:g} ×", share >= aim, "an empty FastAPI route", at_most),
                note=f"one core of Python; {_latency(polled)}",
            )
        )
        times = statistics.median(ours) / statistics.median([one.rate for one in theirs]) if theirs else None
        figures.append(
            Figure(
                *(6, what, "answers/s", ours, f"≥ {AIM_OF_PEER:g} ×", times and times >= AIM_OF_PEER),
                peer=f"MLflow runs/get, {peer_lines} connections, PostgreSQL",
                theirs=[one.rate for one in theirs],
                note=why or f"MLflow: {_latency(theirs)}",
            )
        )
    return figures


def _services(server: str, folder: Path, opened: ExitStack) -> Mapping[tuple[str, int], tuple[str, Sequence[bytes]]]:
    """Where and what to poll, by database and status."""
    bell = BrokerServer()
    opened.callback(bell.close)
    homes = {name: folder / name for name in ("PostgreSQL", "SQLite")}
    for home in homes.values():
        home.mkdir()
    on_server, url, key = opened.enter_context(tables(server, homes["PostgreSQL"]))
    found = _requests("PostgreSQL", on_server, url, key, homes["PostgreSQL"], bell, opened)
    url = f"sqlite:///{homes['SQLite'] / 'lightyard.db'}"
    with closing(Database(url)) as database:
        upgrade(database)
        first_start(database, homes["SQLite"] / "key")
        key = (homes["SQLite"] / "key").read_text().strip()
        return found | _requests("SQLite", database, url, key, homes["SQLite"], bell, opened)


def _requests(
    name: str, database: Database, url: str, key: str, home: Path, bell: BrokerServer, opened: ExitStack
) -> dict[tuple[str, int], tuple[str, Sequence[bytes]]]:
    jobs = [claim.job.id for claim in running(database, LINES)]
    address = opened.enter_context(api(url, bell.url, home))
    headers = {"Authorization": f"Bearer {key}"}
    whole, unchanged = [], []
    for job in jobs:
        path = f"/v1/jobs/{job}"
        answer = httpx.get(f"{address}{path}", headers=headers, trust_env=False)
        assert answer.status_code == 200, answer.text
        whole.append(get(address, path, headers))
        unchanged.append(get(address, path, headers | {"If-None-Match": answer.headers["ETag"]}))
    return {(name, 304): (address, unchanged), (name, 200): (address, whole)}


def _polled(address: str, asked: Sequence[bytes], status: int) -> Polled:
    found = poll(address, asked, SECONDS)
    assert list(found.statuses) == [str(status)], found.statuses
    assert not found.reconnects
    return found


def _peer(server: str, folder: Path, opened: ExitStack) -> tuple[tuple[str, Sequence[bytes]] | None, int, str]:
    """MLflow's address and what to ask it, on how many connections; why not, where there is none."""
    try:
        address, _ = opened.enter_context(mlflow(server, folder))
    except Missing as error:
        return None, LINES, str(error)
    with closing(Caller(address, {"Content-Type": "application/json"})) as caller:
        made = [_run(caller) for _ in range(LINES)]
    asked = [get(address, f"/api/2.0/mlflow/runs/get?run_id={run}", {}) for run in made]
    tried = poll(address, asked, SECONDS)
    if set(tried.statuses) == {"200"} and not tried.reconnects:
        return (address, asked), LINES, ""
    return (address, asked[:FEWER_LINES]), FEWER_LINES, f"MLflow with {LINES}: {tried.statuses}"


def _run(caller: Caller) -> str:
    """A run of MLflow's with as much to tell as one of our jobs."""
    now = int(time.time() * 1000)
    body = {"experiment_id": "0", "run_name": "digits", "start_time": now, "tags": [{"key": "team", "value": "vision"}]}
    made = caller.json("POST", "/api/2.0/mlflow/runs/create", orjson.dumps(body))
    run = str(made["run"]["info"]["run_id"])
    told = {
        "run_id": run,
        "metrics": [{"key": name, "value": 0.125, "timestamp": now, "step": 100} for name in METRICS],
        "params": [{"key": f"config/{index}", "value": "0.003"} for index in range(20)],
        "tags": [],
    }
    caller.json("POST", "/api/2.0/mlflow/runs/log-batch", orjson.dumps(told))
    return run


def _latency(polled: Sequence[Polled]) -> str:
    p50, p99, busy = (
        statistics.median(values)
        for values in zip(*[(one.p50_milliseconds, one.p99_milliseconds, one.busy) for one in polled], strict=True)
    )
    return f"median {p50:.3g} ms, p99 {p99:.3g} ms; the clients took {busy:.0%} of a core"
