"""A migrated database of each kind, a project in it, and short ways to make jobs and workers."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from core.claims import Claim, Claims
from core.database import Database, upgrade
from core.fleet import Fleet
from core.ids import new_id
from core.job import Job, NewJob
from core.jobs import Jobs
from core.security import Caller, authenticate, first_start
from core.tables import metadata
from tests.servers import empty_database


@pytest.fixture(scope="session")
def _sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    with closing(Database(f"sqlite:///{tmp_path_factory.mktemp('core') / 'lightyard.db'}")) as opened:
        upgrade(opened)
        yield opened


@pytest.fixture(scope="session")
def _postgresql(postgres_url: str) -> Iterator[Database]:
    with empty_database(postgres_url) as url, closing(Database(url)) as opened:
        upgrade(opened)
        yield opened


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> Database:
    """A migrated database of each kind, migrated once and emptied before each test."""
    return emptied(request.getfixturevalue(f"_{request.param}"))


def emptied(opened: Database) -> Database:
    """The same, without a row."""
    with opened.write() as connection:
        for table in reversed(metadata.sorted_tables):
            connection.execute(table.delete())
    return opened


@pytest.fixture
def caller(database: Database, tmp_path: Path) -> Caller:
    first_start(database, tmp_path / "caller" / "key")
    return authenticate(database, (tmp_path / "caller" / "key").read_text().strip())


@pytest.fixture
def submit(database: Database, caller: Caller) -> Callable[..., Job]:
    """Puts a job in the queue; keyword arguments are `NewJob`'s."""

    def put(**fields: Any) -> Job:
        defaults: dict[str, Any] = {
            "config": {"model": {"class_path": "m.Net"}},
            "class_paths": ["m.Net"],
            "accelerator": "auto",
            "devices": 1,
            "max_seconds": 60.0,
            "max_attempts": 3,
        }
        with database.write() as connection:
            return Jobs(database).create(connection, caller.project_id, NewJob(**defaults | fields))

    return put


@pytest.fixture
def worker(database: Database) -> Callable[..., str]:
    """Announces a worker with the devices named, e.g. `"gpu:0", "gpu:1"`; returns its id."""

    def join(*devices: str) -> str:
        worker_id = new_id("wrk")
        Fleet(database).join(
            worker_id, "box", 1, [{"id": name, "name": "d", "memory_bytes": 1} for name in devices], {}
        )
        return worker_id

    return join


@pytest.fixture
def claim(database: Database) -> Callable[..., Claim | None]:
    """Claims for a worker, which can run every class unless told otherwise."""

    def take(
        worker_id: str, lease_seconds: float = 60.0, can_run: Callable[..., bool] = lambda paths: True
    ) -> Claim | None:
        return Claims(database).claim(worker_id, "box", lease_seconds, can_run)

    return take
