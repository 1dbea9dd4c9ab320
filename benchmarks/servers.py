"""Servers that benchmarks run against: a PostgreSQL that keeps what it commits, and the peers' own."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from benchmarks.environments import python_of
from core.database import Database, upgrade
from core.security import first_start
from embedded.home import free_port
from embedded.lineage import bound_to_parent
from tests.servers import PostgresServer, empty_database
from tests.waiting import wait_until

HOST = "127.0.0.1"
DURABLE = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "shared_buffers": "512MB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "30min",
}
"""As in production: what is committed outlives a power cut. Sizes as an operator of a small machine would set them."""
START_SECONDS = 120.0


@contextmanager
def postgres() -> Iterator[str]:
    """Address of a durable PostgreSQL, without databases of ours."""
    server = PostgresServer(DURABLE)
    try:
        yield server.url
    finally:
        server.close()


@contextmanager
def tables(server_url: str, folder: Path) -> Iterator[tuple[Database, str, str]]:
    """A database with our tables on a PostgreSQL: it, its address and an API key. `folder` takes the key's file."""
    with empty_database(server_url) as url:
        database = Database(url)
        upgrade(database)
        first_start(database, folder / "key")
        yield database, url, (folder / "key").read_text().strip()
        database.close()


@contextmanager
def mlflow(database_url: str, folder: Path) -> Iterator[str]:
    """Address of an MLflow tracking server with one process, on a database of its own. Raises `Missing`."""
    port = free_port(HOST)
    address = f"http://{HOST}:{port}"
    command = [
        str(python_of("mlflow")),
        "-m",
        "mlflow",
        "server",
        "--host",
        HOST,
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    command += ["--backend-store-uri", database_url.replace("+psycopg:", "+psycopg2:")]
    command += ["--artifacts-destination", str(folder / "mlflow-artifacts")]
    with (folder / "mlflow.log").open("ab") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
            | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=bound_to_parent(),
        )

    def answers() -> bool:
        assert process.poll() is None, (folder / "mlflow.log").read_text()[-2000:]
        try:
            return httpx.get(f"{address}/health", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    try:
        wait_until(answers, what="MLflow answers", deadline_seconds=START_SECONDS)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # its own end leaves children behind
        process.wait()
