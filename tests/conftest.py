"""The real parts that tests run on. PostgreSQL and the broker start when a test first asks for them."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from core.settings import Settings
from tests.servers import BrokerServer, PostgresServer, empty_database, flush_broker
from tests.stack import Backend, Stack

BACKENDS = ["embedded", "production"]

TEST_DATABASE_URL = os.environ.get("LIGHTYARD_TEST_DATABASE_URL", "")
"""A PostgreSQL to use instead of one of our own; its user must be allowed to create databases."""
TEST_BROKER_URL = os.environ.get("LIGHTYARD_TEST_BROKER_URL", "")
"""A Redis database to use instead of one of our own; it is FLUSHED again and again."""


LONGEST_FIRST = ("e2e", "embedded", "faults", "workers", "models")
"""Folders whose files take long, for they start processes and wait: dealt out last, one would keep all waiting."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files are dealt out to the test processes in the order of their tests."""
    here = Path(__file__).parent

    def place(item: pytest.Item) -> int:
        folder = item.path.relative_to(here).parts[0]
        return LONGEST_FIRST.index(folder) if folder in LONGEST_FIRST else len(LONGEST_FIRST)

    items.sort(key=place)


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


@pytest.fixture(scope="session", params=BACKENDS)
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """An API and a worker on each backend, shared by all tests that leave it whole."""
    with _backend(request) as backend, Stack(tmp_path_factory.mktemp(backend.name), backend) as running:
        yield running


@pytest.fixture(params=BACKENDS)
def start_stack(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Stack]]:
    """Starts stacks of a test's own, to break: `start_stack(workers=2, settings={...})`. Servers are new and empty."""
    with ExitStack() as opened:

        def start(workers: int = 1, settings: dict[str, str] | None = None) -> Stack:
            backend = opened.enter_context(_backend(request))
            folder = tmp_path / f"stack-{len(list(tmp_path.glob('stack-*'))) + 1}"
            return opened.enter_context(Stack(folder, backend, workers=workers, settings=settings))

        yield start


@contextmanager
def _backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    if request.param == "embedded":
        yield Backend("embedded", database_url="", broker_url="")
        return
    with ExitStack() as opened:
        database_url = opened.enter_context(empty_database(request.getfixturevalue("postgres_url")))
        if TEST_BROKER_URL:
            flush_broker(TEST_BROKER_URL)
            yield Backend("production", database_url, TEST_BROKER_URL)
            return
        # Of its own, because a test's `broker_url` is emptied while a session's stack goes on.
        broker = BrokerServer()
        opened.callback(broker.close)
        yield Backend("production", database_url, broker.url, broker)
