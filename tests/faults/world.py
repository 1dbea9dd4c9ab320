"""The stack that is being broken, with all that breaking it takes: its servers, its lines, its processes, its disks."""

import contextlib
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil
from sqlalchemy import make_url

from core.database import Database
from core.leftovers import Leftovers
from core.settings import Settings
from core.storage import Store
from embedded.readiness import online_workers
from tests.faults.mounts import mount_small, unmount
from tests.faults.network import Line, Network, State
from tests.servers import BrokerServer, PostgresServer, empty_database
from tests.stack import FAST, WITH_STANDBY, Backend, Stack

USER_CODE = Path(__file__).resolve().parent / "user_code"
WORKERS = ("worker-1", "worker-2")
SMALL_DISK = "worker-2"
"""The worker whose home lies on a disk of its own, and a small one; the other's shares a file system with the store."""
SETTINGS = {
    "LIGHTYARD_CATALOG_MODULES": "enduring",
    "PYTHONPATH": os.pathsep.join([str(USER_CODE), FAST["PYTHONPATH"]]),
}
DURABLE = {"synchronous_commit": "on"}
"""Without it a PostgreSQL that is killed forgets what it has just confirmed."""
TRAINER = re.compile(r"lightyard-trainer (job_\w+) rank 0")
FORK_SERVER = "lightyard-forkserver"
GONE = (psutil.NoSuchProcess, psutil.AccessDenied)


@dataclass(frozen=True, slots=True)
class Trainer:
    """A live trainer, its worker's name and its job's id. DataLoader workers are `loaders`."""

    process: psutil.Process
    worker: str
    job_id: str
    loaders: tuple[psutil.Process, ...]


class World:
    """One stack of two workers, or of the first of them. Closed with its `with` block; nothing of it is left then.

    On the production backend each process reaches PostgreSQL and the broker through lines of its own.
    """

    def __init__(
        self,
        folder: Path,
        backend: str,
        workers: Sequence[str] = WORKERS,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.backend = backend
        self.workers = tuple(workers)
        self._settings = SETTINGS | WITH_STANDBY | dict(settings or {})
        self.postgres: PostgresServer | None = None
        self.broker: BrokerServer | None = None
        self.lines: dict[str, dict[str, Line]] = {}
        self.small_disk: str | None = None
        """Why there is no small disk, where there is none."""
        self.leaving: set[str] = set()
        """The processes that have been told to end."""
        self.sessions: set[int] = set()
        """Process ids of all the stack's processes that ever were: each leads a session, which its children share."""
        self._opened = ExitStack()
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        if SMALL_DISK in self.workers:
            (self.folder / SMALL_DISK).mkdir(parents=True)
            self.small_disk = mount_small(self.folder / SMALL_DISK)
            if self.small_disk is None:
                self._opened.callback(unmount, self.folder / SMALL_DISK)
        parts, settings_of = Backend("embedded", database_url="", broker_url=""), {}
        if self.backend == "production":
            self.postgres = PostgresServer(DURABLE)
            self._opened.callback(self.postgres.close)
            self.broker = BrokerServer()
            self._opened.callback(self.broker.close)
            url = self._opened.enter_context(empty_database(self.postgres.url))
            parts = Backend("production", url, self.broker.url, self.broker)
            network = self._opened.enter_context(Network())
            for name in ("api", *self.workers):
                self.lines[name] = {
                    "database": network.line(self.postgres.port),
                    "broker": network.line(self.broker.port),
                }
                settings_of[name] = {
                    "LIGHTYARD_DATABASE_URL": _through(url, self.lines[name]["database"]),
                    "LIGHTYARD_BROKER_URL": _through(self.broker.url, self.lines[name]["broker"]),
                }
        self.stack = self._opened.enter_context(
            Stack(self.folder, parts, workers=len(self.workers), settings=self._settings, settings_of=settings_of)
        )
        self.note_sessions()

    def close(self) -> None:
        """Stop and remove everything."""
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # What there is

    @property
    def store(self) -> Path:
        """Folder of the object store."""
        return self.stack.home / "store"

    @property
    def sqlite(self) -> Path:
        """The database file of the embedded backend."""
        return Path(make_url(Settings(home=self.stack.home).database).database or "")

    def runs(self, worker: str) -> Path:
        """A worker's run directories."""
        return self.folder / worker / "runs"

    def up(self, name: str) -> bool:
        """Whether a process of the stack runs."""
        process = self.stack.processes.get(name)
        return process is not None and process.poll() is None

    def fell(self) -> Mapping[str, int]:
        """The stack's processes that ended though nobody killed them, with their exit codes."""
        return {
            name: process.returncode
            for name, process in self.stack.processes.items()
            if process.poll() is not None and name not in self.leaving
        }

    def family(self, name: str) -> list[psutil.Process]:
        """A process of the stack and all below it."""
        if not self.up(name):
            return []
        try:
            process = psutil.Process(self.stack.processes[name].pid)
            return [process, *process.children(recursive=True)]
        except GONE:
            return []

    def server(self, name: str) -> list[psutil.Process]:
        """The processes of the `api`, the `broker` or the `database`; none where it is away, or is no process."""
        if name == "broker" and self.broker is not None:
            return self.broker.family
        if name == "database":
            return self.postgres.family if self.postgres is not None else []
        return self.family(name)

    def fork_server(self, worker: str) -> psutil.Process | None:
        """A worker's fork server."""
        for process in self.family(worker)[1:]:
            if _title(process).startswith(FORK_SERVER):
                return process
        return None

    def trainers(self, worker: str | None = None) -> list[Trainer]:
        """The trainers that live, by worker and job."""
        found = []
        for name in self.workers if worker is None else (worker,):
            below: dict[int, list[psutil.Process]] = {}
            family = self.family(name)
            for process in family:
                with contextlib.suppress(*GONE):
                    below.setdefault(process.ppid(), []).append(process)
            for server in family:
                if not _title(server).startswith(FORK_SERVER):
                    continue
                for process in below.get(server.pid, []):
                    if title := TRAINER.match(_title(process)):
                        found.append(Trainer(process, name, title[1], tuple(below.get(process.pid, []))))
        return sorted(found, key=lambda trainer: (trainer.worker, trainer.job_id))

    def run_directory(self, trainer: Trainer) -> Path | None:
        """Where a trainer runs; None when it has not got that far, or is gone."""
        try:
            folder = Path(trainer.process.cwd()).parent
        except GONE:
            return None
        return folder if folder.name.startswith("attempt-") and (folder / "spool").exists() else None

    def online(self) -> int:
        """How many workers are online, by what the API says. Raises `httpx.HTTPError`."""
        return len(online_workers(self.stack.client, self.stack.key))

    # What is done to it

    def start(self, name: str) -> None:
        """Start a process of the stack that is not running; returns without waiting for it."""
        if self.up(name):
            return
        self.stack.processes.pop(name, None)
        modules = {"api": "app", "broker": "embedded.broker"}
        self.stack.start(name, modules.get(name, "workers"))
        self.note_sessions()

    def kill(self, name: str) -> None:
        """Kill a process of the stack outright."""
        self.stack.kill(name)

    def kill_broker(self) -> None:
        """Kill the broker outright."""
        if self.broker is not None:
            self.broker.kill()
        elif self.up("broker"):
            self.kill("broker")

    def start_broker(self) -> None:
        """Bring the broker back."""
        if self.broker is None:
            self.start("broker")
        elif not self.broker.runs:
            self.broker.start()

    def kill_postgres(self) -> None:
        """Kill PostgreSQL outright, where there is one."""
        if self.postgres is not None and self.postgres.runs:
            self.postgres.kill()

    def start_postgres(self) -> None:
        """Bring PostgreSQL back, where there is one."""
        if self.postgres is not None and not self.postgres.runs:
            self.postgres.start()

    def open_lines(self) -> None:
        """Every line is open again."""
        for lines in self.lines.values():
            for line in lines.values():
                line.set(State.OPEN)

    def let_a_day_pass(self) -> int:
        """Remove what lies about in the store, as workers do with what is old enough; returns how much it was.

        Only when no job is under way: whatever no row knows by then is nobody's.
        """
        database = Database(self.stack.database_url)
        leftovers = Leftovers(
            database, Store(f"file://{self.store}"), older_than_seconds=0.0, drafts_older_than_seconds=0.0
        )
        removed = 0
        while found := leftovers.sweep():
            removed += found
        database.close()
        return removed

    def note_sessions(self) -> None:
        """Remember the processes that are there, so that what they leave behind can be told from others'."""
        self.sessions |= {process.pid for process in self.stack.processes.values()}


def _through(url: str, line: Line) -> str:
    return make_url(url).set(host="127.0.0.1", port=line.port).render_as_string(hide_password=False)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()).strip()
    except GONE:
        return ""
