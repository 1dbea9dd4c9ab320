"""The API process itself: what it loads, how it starts, stops and refuses to start."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from core.database import Database, is_current, upgrade
from embedded.home import free_port
from tests.app.parts import running_api
from tests.app.test_events import messages
from tests.servers import PostgresServer, empty_database
from tests.waiting import wait_until

HEAVY = ["torch", "pytorch_lightning", "lightning", "jsonargparse", "numpy", "sklearn", "pandas"]


@contextmanager
def process(home: Path, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    environment = {
        **os.environ,
        "LIGHTYARD_HOME": str(home),
        "LIGHTYARD_PORT": str(free_port("127.0.0.1")),
        **variables,
    }
    with (home / "api.log").open("wb") as log:
        started = subprocess.Popen([sys.executable, "-m", "app"], env=environment, stderr=log)
    started.port = environment["LIGHTYARD_PORT"]  # type: ignore[attr-defined]  # for `get` below
    try:
        yield started
    finally:
        started.kill()
        started.wait()


def is_up(started: subprocess.Popen[bytes], path: str = "/readyz") -> bool:
    try:
        url = f"http://127.0.0.1:{started.port}{path}"  # type: ignore[attr-defined]  # set by `process`
        return httpx.get(url, trust_env=False).status_code == 200
    except httpx.TransportError:
        assert started.poll() is None, "it ended"
        return False


def test_the_api_never_loads_what_trains() -> None:
    code = "import json, sys, app.process; app.process.create_app().openapi(); print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert "fastapi" in loaded
    assert [name for name in HEAVY if name in loaded] == []
    assert "alembic" not in loaded, "a start that has nothing to migrate should not pay for it"


def test_it_starts_on_an_empty_home_and_again_and_stops_in_good_order(home: Path) -> None:
    keys = []
    for _ in range(2):
        with process(home) as started:
            wait_until(lambda: is_up(started), what="it is ready", deadline_seconds=60)
            keys.append((home / "key").read_text())
            assert Path(f"/proc/{started.pid}/cmdline").read_bytes().startswith(b"lightyard-api")
            started.send_signal(signal.SIGTERM)
            assert started.wait(20) == 0
    assert keys[0] == keys[1]
    log = (home / "api.log").read_text()
    assert "api_starts" in log
    assert keys[0].strip() not in log


def test_on_postgresql_it_does_not_start_before_the_migrations_were_run(home: Path, postgres_url: str) -> None:
    with empty_database(postgres_url) as url:
        with process(home, LIGHTYARD_DATABASE_URL=url) as started:
            assert started.wait(60) == 1
        log = (home / "api.log").read_text()
        assert "python -m core.database upgrade" in log
        assert "Traceback" not in log
        database = Database(url)
        upgrade(database)
        database.close()
        with process(home, LIGHTYARD_DATABASE_URL=url) as started:
            wait_until(lambda: is_up(started), what="it is ready", deadline_seconds=60)


def test_the_head_of_the_migrations_is_the_revision_that_the_code_names(database_url: str) -> None:
    database = Database(database_url)
    assert not is_current(database)
    upgrade(database)
    assert is_current(database)
    database.close()


def test_an_outage_of_the_database_is_survived_by_requests_and_streams(home: Path) -> None:
    server = PostgresServer()
    try:
        with empty_database(server.url) as url, running_api(home, url, database_timeout_seconds=1.0) as api:
            claim = api.running_job()
            path = f"/v1/jobs/{claim.job.id}"
            with api.http.stream("GET", f"{path}/events/stream", timeout=60) as answer:
                stream = messages(answer.iter_lines())
                assert next(stream)["event"] == "created"
                server.stop()
                away = api.http.get(path)
                assert (away.status_code, away.json()["code"]) == (503, "database_unavailable")
                assert api.http.get("/healthz").status_code == 200
                assert api.http.get("/readyz").json()["code"] == "not_ready"
                assert api.http.get("/metrics").status_code == 200
                server.start()
                wait_until(lambda: api.http.get(path).status_code == 200, what="it is back", deadline_seconds=20)
                api.finish(claim)
                assert [event["event"] for event in stream] == ["claimed", "succeeded", "done"]
    finally:
        server.close()
