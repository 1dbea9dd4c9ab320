"""POST /v1/jobs at a sustained rate into a database that keeps what it commits, against MLflow's runs/create.

Open loop: each call is due at its own moment, whether those before it have been answered or not, and its latency
counts from then on. So a service that falls behind is seen to. Each body is another one, under an idempotency key of
its own as the SDK sends it.
"""

import itertools
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import orjson

from benchmarks import digits
from benchmarks.api import announce, api
from benchmarks.caller import Caller
from benchmarks.environments import Missing
from benchmarks.figure import Figure, percentile
from benchmarks.servers import mlflow, postgres, tables
from core.database import Database, upgrade
from core.security import first_start
from tests.servers import BrokerServer

RATE = 200
"""Calls a second."""
LINES = 64
"""Connections at most; where all of them wait for an answer, a call that is due waits too, and that counts."""
WINDOW_SECONDS = 5.0
WINDOWS = 2
BUSY_LINES = 16
AIM_MILLISECONDS = 50.0
PEER = "MLflow runs/create"
CONFIG = digits.config()

Call = Callable[[Caller, int], None]


def measure(folder: Path) -> list[Figure]:
    """Latencies at the rate on both databases, and how many a second one process takes at most."""
    with ExitStack() as opened:
        bell = BrokerServer()
        opened.callback(bell.close)
        server = postgres()
        database, url, key = opened.enter_context(tables(server, folder))
        announce(database)
        ours = opened.enter_context(api(url, bell.url, folder))
        peer, why = "", ""
        try:
            peer, _ = opened.enter_context(mlflow(server, folder))
            closed_loop(peer, {}, _create_run, 1, seconds=1.0)  # its first requests take seconds
        except Missing as error:
            why = f"; {error}"
        headers = {"Authorization": f"Bearer {key}"}
        open_loop(ours, headers, seconds=1.0)
        at_rate: list[float] = []
        p95s, alone, rates, their_rates = [], [], [], []
        for _ in range(WINDOWS):
            window = open_loop(ours, headers, seconds=WINDOW_SECONDS)
            at_rate += window
            p95s.append(percentile(window, 0.95))
            if peer:
                alone.append(percentile(closed_loop(peer, {}, _create_run, 1, WINDOW_SECONDS / 2), 0.95))
            rates.append(len(closed_loop(ours, headers, submit, BUSY_LINES, WINDOW_SECONDS / 2)) * 2 / WINDOW_SECONDS)
            if peer:
                found = closed_loop(peer, {}, _create_run, BUSY_LINES, WINDOW_SECONDS / 2)
                their_rates.append(len(found) * 2 / WINDOW_SECONDS)
        opened.pop_all().close()
        with ExitStack() as again:
            sqlite_p95s, sqlite_median = _on_sqlite(folder, again)
    median = percentile(at_rate, 0.5)
    return [
        Figure(
            7,
            f"POST /v1/jobs at {RATE}/s, open loop, p95 of {WINDOW_SECONDS:g} s each; PostgreSQL, fsync on",
            "ms",
            p95s,
            aim=f"p95 < {AIM_MILLISECONDS:g} ms",
            met=percentile(at_rate, 0.95) < AIM_MILLISECONDS,
            peer=f"{PEER}, one call at a time",
            theirs=alone,
            note=f"median {median:.3g} ms: the check of the config, six statements and the disk's flush{why}",
        ),
        Figure(
            7,
            f"POST /v1/jobs, {BUSY_LINES} connections as fast as they can",
            "calls/s",
            rates,
            peer=PEER,
            theirs=their_rates,
            note="one core of Python",
        ),
        Figure(
            7,
            f"POST /v1/jobs at {RATE}/s, open loop, p95; SQLite, synchronous=FULL",
            "ms",
            sqlite_p95s,
            note=f"median {sqlite_median:.3g} ms: one writer at a time, each with the disk's flush",
        ),
    ]


def _on_sqlite(folder: Path, opened: ExitStack) -> tuple[list[float], float]:
    home = folder / "embedded"
    home.mkdir()
    url = f"sqlite:///{home / 'lightyard.db'}"
    bell = BrokerServer()
    opened.callback(bell.close)
    with closing(Database(url)) as database:
        upgrade(database)
        first_start(database, home / "key")
        announce(database)
    headers = {"Authorization": f"Bearer {(home / 'key').read_text().strip()}"}
    address = opened.enter_context(api(url, bell.url, home))
    open_loop(address, headers, seconds=1.0)
    windows = [open_loop(address, headers, seconds=WINDOW_SECONDS / 2) for _ in range(2)]
    return [percentile(window, 0.95) for window in windows], percentile([one for w in windows for one in w], 0.5)


def submit(caller: Caller, number: int) -> None:
    """One job, another one than any before."""
    config = CONFIG | {"seed_everything": number}
    body = orjson.dumps({"name": f"digits-{number}", "labels": {"team": "vision"}, "config": config})
    headers = {"Content-Type": "application/json", "Idempotency-Key": uuid.uuid4().hex}
    status, answer = caller.call("POST", "/v1/jobs", body, **headers)
    assert status == 201, answer[:500]


def open_loop(address: str, headers: dict[str, str], seconds: float) -> list[float]:
    """Milliseconds from when each call was due to the end of its answer."""
    count = int(RATE * seconds)
    numbers, taking = itertools.count(), threading.Lock()
    found = [0.0] * count
    began = time.perf_counter() + 0.1

    def work() -> None:
        with closing(Caller(address, headers)) as caller:
            while True:
                with taking:
                    number = next(numbers)
                if number >= count:
                    return
                due = began + number / RATE
                time.sleep(max(0.0, due - time.perf_counter()))
                submit(caller, number)
                found[number] = (time.perf_counter() - due) * 1000

    _in_threads([work] * LINES)
    return found


def closed_loop(address: str, headers: dict[str, str], call: Call, lines: int, seconds: float) -> list[float]:
    """Milliseconds of each call, where every connection sends the next one as soon as it has its answer."""
    found: list[float] = []
    until = time.perf_counter() + seconds

    def work() -> None:
        with closing(Caller(address, headers)) as caller:
            for number in itertools.count():
                if (began := time.perf_counter()) > until:
                    return
                call(caller, number)
                found.append((time.perf_counter() - began) * 1000)

    _in_threads([work] * lines)
    return found


def _create_run(caller: Caller, number: int) -> None:
    body = {"experiment_id": "0", "run_name": f"digits-{number}", "start_time": int(time.time() * 1000)}
    body["tags"] = [{"key": "team", "value": "vision"}]
    headers = {"Content-Type": "application/json"}
    status, answer = caller.call("POST", "/api/2.0/mlflow/runs/create", orjson.dumps(body), **headers)
    assert status == 200, answer[:500]


def _in_threads(works: Sequence[Callable[[], None]]) -> None:
    """Run them side by side; the first error of any is raised at the end."""
    errors: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=[work]) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
