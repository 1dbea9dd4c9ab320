"""The service as its users run it, for tests: a real API and real workers, as processes of their own."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import psutil
import pytest
from sqlalchemy import make_url

from core.settings import Settings
from embedded.home import address, free_port
from embedded.lineage import bound_to_parent
from embedded.readiness import online_workers, wait_until_ready
from tests.servers import BrokerServer, flush_broker
from tests.waiting import wait_until

TESTS = Path(__file__).resolve().parent
HOST = "127.0.0.1"
START_SECONDS = 90.0
STOP_SECONDS = 30.0

FAST = {
    "LIGHTYARD_LEASE_SECONDS": "3",
    "LIGHTYARD_RECONCILE_INTERVAL_SECONDS": "0.3",
    "LIGHTYARD_RING_AFTER_SECONDS": "0.5",
    "LIGHTYARD_RETRY_BACKOFF_SECONDS": "0.1",
    "LIGHTYARD_WORKER_SILENCE_SECONDS": "3",
    "LIGHTYARD_STOP_GRACE_SECONDS": "5",
    "LIGHTYARD_SHIP_INTERVAL_SECONDS": "0.05",
    "LIGHTYARD_RECOVERY_INTERVAL_SECONDS": "0.4",
    "LIGHTYARD_PREEMPTION": "true",
    "LIGHTYARD_STANDBY": "false",
    "LIGHTYARD_WORKER_SLOTS": "2",
    "LIGHTYARD_WORKER_DEVICES": "cpu",
    "LIGHTYARD_CATALOG_MODULES": "models,misbehaving",
    "PYTHONPATH": os.pathsep.join([str(TESTS / "user_code"), str(TESTS.parent)]),
    "OMP_NUM_THREADS": "1",
}
"""The same program with shorter waits, so that a test sees a lease expire.

No trainer stands by, which costs a second of two cores for each job; some stacks have one, as in production.
"""
WITH_STANDBY = {"LIGHTYARD_STANDBY": "true"}

TAUGHT = {
    "LIGHTYARD_CATALOG_MODULES": "models,misbehaving,predicting,lessons,pytorch_lightning.demos",
    "PYTHONPATH": os.pathsep.join([str(TESTS / "user_code"), str(TESTS.parent / "examples"), str(TESTS.parent)]),
}
"""A worker that can run the lessons and Lightning's own demos, too."""


@dataclass(frozen=True)
class Backend:
    """The servers below a stack: `embedded` is SQLite and a Unix socket, `production` PostgreSQL and TCP."""

    name: str
    database_url: str
    broker_url: str
    broker: BrokerServer | None = None
    """The server at `broker_url`, where it is ours to stop."""


class Stack:
    """One API and some workers on one database, one broker and one store; each worker has a home of its own.

    Logs lie in `logs` in its folder, one file per process. Everything dies with the test run. `settings` are for all
    processes, `settings_of` for those of a name.
    """

    def __init__(
        self,
        folder: Path,
        backend: Backend,
        *,
        workers: int = 1,
        settings: Mapping[str, str] | None = None,
        settings_of: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        self.folder = folder
        self.backend = backend
        self.home = folder / "home"
        self.port = free_port(HOST)
        self.address = address(HOST, self.port)
        self.settings = FAST | dict(settings or {})
        self.settings_of = dict(settings_of or {})
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        (folder / "logs").mkdir(parents=True)
        try:
            self._start(workers)
        except BaseException:
            self.stop()
            raise

    def _start(self, workers: int) -> None:
        if not self.backend.broker_url:
            self.start("broker", "embedded.broker")
        migration = self.start("migrate", "core.database", "upgrade")
        assert migration.wait(START_SECONDS) == 0, self.log("migrate")
        del self.processes["migrate"]
        self.start_api()
        for _ in range(workers):
            self.start_worker()
        self.key = wait_until_ready(self.address, self.home / "key", START_SECONDS, self._all_run)
        self.client = httpx.Client(
            base_url=self.address, headers={"Authorization": f"Bearer {self.key}"}, timeout=90.0, trust_env=False
        )
        self.wait_for_workers(workers)

    def start_api(self) -> subprocess.Popen[bytes]:
        """Start the API, on the same port each time; returns without waiting for it."""
        return self.start("api", "app")

    def start_worker(self, settings: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start one more worker, `worker-1`, `worker-2` …; returns without waiting for it."""
        number = 1
        while f"worker-{number}" in self.processes:
            number += 1
        return self.start(f"worker-{number}", "workers", settings=settings)

    def start(
        self, name: str, module: str, *arguments: str, settings: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Run a module of the service with the stack's settings."""
        home = self.folder / name if name.startswith("worker-") else self.home
        environment = {
            "LIGHTYARD_HOME": str(home),
            "LIGHTYARD_HOST": HOST,
            "LIGHTYARD_PORT": str(self.port),
            "LIGHTYARD_DATABASE_URL": self.database_url,
            "LIGHTYARD_BROKER_URL": self.broker_url,
            "LIGHTYARD_STORAGE_URL": f"file://{self.home / 'store'}",
            "LIGHTYARD_WORKER_NAME": name,
        }
        chosen = self.settings | dict(self.settings_of.get(name, {})) | dict(settings or {})
        with (self.folder / "logs" / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                env=os.environ | environment | chosen,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=bound_to_parent(),
            )
        self.processes[name] = process
        return process

    @property
    def database_url(self) -> str:
        """Address of the database."""
        return self.backend.database_url or Settings(home=self.home).database

    @property
    def broker_url(self) -> str:
        """Address of the broker."""
        return self.backend.broker_url or Settings(home=self.home).broker

    def stop_broker(self) -> None:
        """Take the broker away; `start_broker` brings it back."""
        if self.backend.broker is not None:
            self.backend.broker.stop()
        elif "broker" in self.processes:
            self.kill("broker")
        else:
            pytest.skip("the broker at LIGHTYARD_TEST_BROKER_URL is not ours to stop")

    def start_broker(self) -> None:
        """Bring the broker back."""
        if self.backend.broker is not None:
            self.backend.broker.start()
        else:
            self.start("broker", "embedded.broker")

    def flush_broker(self) -> None:
        """Lose every message that is under way."""
        flush_broker(self.broker_url.replace("redis+socket:", "unix:").partition("?")[0])

    def log(self, name: str) -> str:
        """What a process has written so far."""
        return (self.folder / "logs" / f"{name}.log").read_text(errors="replace")

    def wait_for_workers(self, count: int, deadline_seconds: float = START_SECONDS) -> None:
        """Wait until so many workers have announced themselves."""
        wait_until(
            lambda: len(self._online()) == count,
            what=f"{count} workers are online",
            deadline_seconds=deadline_seconds,
        )

    @property
    def workers(self) -> list[str]:
        """The names of the workers that run, the oldest first."""
        return [name for name in self.processes if name.startswith("worker-")]

    def have_workers(self, count: int) -> None:
        """Return with so many workers, all of them online: start those that are missing, stop the newest ones."""
        for _ in range(count - len(self.workers)):
            self.start_worker()
        for name in self.workers[count:]:
            self.terminate(name)
        wait_until(self._workers_are_online, what=f"{self.workers} are online", deadline_seconds=START_SECONDS)

    def kill(self, name: str) -> None:
        """Kill a process outright, as a power cut would; what it started must find its own end."""
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def freeze(self, name: str) -> None:
        """Stop a process while it does not hold SQLite's write lock: with it, it would stop everybody."""
        process = self.processes[name]

        def stands_apart() -> bool:
            process.send_signal(signal.SIGSTOP)
            url = make_url(self.database_url)
            if url.get_backend_name() != "sqlite":
                return True
            assert url.database is not None
            with closing(sqlite3.connect(url.database, timeout=1.0, isolation_level=None)) as connection:
                try:
                    connection.execute("BEGIN IMMEDIATE")
                except sqlite3.OperationalError:
                    self.thaw(name)
                    return False
                connection.execute("ROLLBACK")
                return True

        wait_until(stands_apart, what="a process is stopped that holds no lock")

    def thaw(self, name: str) -> None:
        """Let a frozen process go on."""
        self.processes[name].send_signal(signal.SIGCONT)

    def terminate(self, name: str) -> int:
        """Ask a process to stop and wait until it has; returns its exit status."""
        process = self.processes.pop(name)
        process.terminate()
        return process.wait(STOP_SECONDS)

    def stop(self) -> None:
        """Stop everything, workers first."""
        if hasattr(self, "client"):
            self.client.close()
        names = sorted(self.processes, key=lambda name: (name == "broker", name == "api"))
        for name in names:
            self.processes[name].terminate()
            if not name.startswith("worker-"):  # workers stop side by side
                self._wait(name)
        for name in names:
            self._wait(name)
        self.processes.clear()
        shutil.rmtree(Settings(home=self.home).socket_path.parent, ignore_errors=True)

    def _online(self) -> list[dict[str, Any]]:
        return online_workers(self.client, self.key)

    def _workers_are_online(self) -> bool:
        self._all_run()
        online = self._online()
        since = {one["name"]: datetime.fromisoformat(one["started_at"]).timestamp() for one in online}
        # One that was killed is online for a moment more, under the name of the one that was started in its place.
        begun = {name: psutil.Process(self.processes[name].pid).create_time() for name in self.workers}
        return len(online) == len(begun) and all(since.get(name, 0.0) > begun[name] for name in begun)

    def _wait(self, name: str) -> None:
        process = self.processes[name]
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _all_run(self) -> bool:
        for name, process in self.processes.items():
            assert process.poll() is None, f"{name} ended with {process.returncode}:\n{self.log(name)}"
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()
