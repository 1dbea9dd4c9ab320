"""Servers that benchmarks run against: a PostgreSQL that keeps what it commits, and the peers' own."""

import atexit
import functools
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psycopg
from sqlalchemy import make_url

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


@functools.cache
def postgres() -> str:
    """Address of a durable PostgreSQL, one for all benchmarks of this process."""
    server = PostgresServer(DURABLE)
    atexit.register(server.close)
    return server.url


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
def mlflow(server_url: str, folder: Path) -> Iterator[tuple[str, str]]:
    """Addresses of an MLflow tracking server with one process, and of its own database. Raises `Missing`."""
    python = str(python_of("mlflow"))
    with (
        empty_database(server_url, _mlflow_template(server_url, python)) as database_url,
        _mlflow_on(database_url, folder, python) as address,
    ):
        yield address, database_url


@functools.cache
def _mlflow_template(server_url: str, python: str) -> str:
    """Name of a database with MLflow's tables, which take it half a minute to make."""
    name = "mlflow_template"
    with psycopg.connect(_for_libpq(server_url), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    url = _for_mlflow(make_url(server_url).set(database=name).render_as_string(hide_password=False))
    subprocess.run([python, "-m", "mlflow", "db", "upgrade", url], env=_environment(), check=True, capture_output=True)
    return name


@contextmanager
def _mlflow_on(database_url: str, folder: Path, python: str) -> Iterator[str]:
    port = free_port(HOST)
    address = f"http://{HOST}:{port}"
    command = [
        python,
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
    command += ["--backend-store-uri", _for_mlflow(database_url)]
    command += ["--artifacts-destination", str(folder / "mlflow-artifacts")]
    with (folder / "mlflow.log").open("ab") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=_environment(),
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


def _environment() -> dict[str, str]:
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | quiet


def _for_mlflow(url: str) -> str:
    return url.replace("+psycopg:", "+psycopg2:")


def _for_libpq(url: str) -> str:
    return url.replace("+psycopg:", ":")
