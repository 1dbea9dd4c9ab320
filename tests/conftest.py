"""The real parts that tests run on. PostgreSQL and the broker start when a test first asks for them."""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from core.settings import Settings
from tests.servers import BrokerServer, PostgresServer, empty_database, flush_broker
from tests.stack import TAUGHT, WITH_STANDBY, Backend, Stack

BACKENDS = ["embedded", "production"]

TEST_DATABASE_URL = os.environ.get("LIGHTYARD_TEST_DATABASE_URL", "")
"""A PostgreSQL to use instead of one of our own; its user must be allowed to create databases."""
TEST_BROKER_URL = os.environ.get("LIGHTYARD_TEST_BROKER_URL", "")
"""A Redis database to use instead of one of our own; it is FLUSHED again and again."""


SHARED = "stack-{}"
"""A group of tests, by the backend of the stack that they share."""
LONGEST_FIRST = (*map(SHARED.format, BACKENDS), "faults", "e2e", "embedded", "workers", "models")
"""Those groups, and folders whose tests start processes and wait: dealt out last, one would keep all waiting."""


class ByStack(LoadScopeScheduling):
    """Deals tests out to the processes by the file, and those that share a stack all at once: it starts in one only."""

    def _split_scope(self, nodeid: str) -> str:
        return _group(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByStack:
    return ByStack(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Groups are dealt out in the order of their tests."""
    items.sort(key=_turn)


def _group(nodeid: str) -> str:
    """The stack that a test shares with others, as its parameter or its folder says, or its file."""
    file, _, test = nodeid.removeprefix("tests/").partition("::")
    if file.startswith("e2e/lightning/"):
        return SHARED.format("embedded")
    parameters = test.partition("[")[2].rstrip("]").split("-")
    if file.startswith("e2e/") or file == "test_container_files.py":
        return next((SHARED.format(backend) for backend in BACKENDS if backend in parameters), file)
    return file


def _turn(item: pytest.Item) -> int:
    first = _group(item.nodeid).partition("/")[0]
    return LONGEST_FIRST.index(first) if first in LONGEST_FIRST else len(LONGEST_FIRST)


@pytest.fixture(scope="session", autouse=True)
def _no_settings_from_outside() -> None:
    """A developer's own LIGHTYARD_* variables decide nothing in a test, nor in the processes it starts."""
    for name in [name for name in os.environ if name.startswith("LIGHTYARD_")]:
        del os.environ[name]


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """Address of a PostgreSQL server on which databases may be made."""
    if TEST_DATABASE_URL:
        yield TEST_DATABASE_URL
        return
    server = PostgresServer()
    yield server.url
    server.close()


@pytest.fixture(scope="session")
def _broker_url() -> Iterator[str]:
    if TEST_BROKER_URL:
        yield TEST_BROKER_URL
        return
    server = BrokerServer()
    yield server.url
    server.close()


@pytest.fixture
def broker_url(_broker_url: str) -> str:
    """Address of an empty broker."""
    flush_broker(_broker_url)
    return _broker_url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Address of an empty database without tables, on each of the two that are supported."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'lightyard.db'}"
        return
    with empty_database(request.getfixturevalue("postgres_url")) as url:
        yield url


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """An empty home folder."""
    folder = tmp_path / "home"
    folder.mkdir(mode=0o700)
    yield folder
    # An embedded broker that was killed leaves its socket, which lies outside its home.
    shutil.rmtree(Settings(home=folder).socket_path.parent, ignore_errors=True)


@pytest.fixture(scope="session")
def embedded_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """An API and a worker on SQLite and a Unix socket, with all that there is to run in the worker's catalogue."""
    backend = Backend("embedded", database_url="", broker_url="")
    with Stack(tmp_path_factory.mktemp(backend.name), backend, settings=TAUGHT) as running:
        yield running


@pytest.fixture(scope="session")
def production_stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """An API and a worker on PostgreSQL and TCP."""
    with ExitStack() as opened:
        database_url = opened.enter_context(empty_database(request.getfixturevalue("postgres_url")))
        broker_url, broker = TEST_BROKER_URL, None
        if TEST_BROKER_URL:
            flush_broker(TEST_BROKER_URL)
        else:
            # Of its own, because a test's `broker_url` is emptied while a session's stack goes on.
            broker = BrokerServer()
            opened.callback(broker.close)
            broker_url = broker.url
        backend = Backend("production", database_url, broker_url, broker)
        folder = tmp_path_factory.mktemp(backend.name)
        yield opened.enter_context(Stack(folder, backend, settings=WITH_STANDBY))


@pytest.fixture
def worker_count() -> int:
    """How many workers a test finds; one that needs more is parametrized with it."""
    return 1


@pytest.fixture(params=BACKENDS)
def stack(request: pytest.FixtureRequest, worker_count: int) -> Stack:
    """An API and a worker on each backend, or on the one that a test asks for: shared, and whole when a test begins."""
    running: Stack = request.getfixturevalue(f"{request.param}_stack")
    running.have_workers(worker_count)
    return running
