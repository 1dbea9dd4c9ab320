"""A migrated database of each kind, a project in it, and short ways to make jobs and workers."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from core.attempts import Attempts, Claim
from core.database import Database, upgrade
from core.fleet import Fleet
from core.ids import new_id
from core.jobs import Job, Jobs, NewJob
from core.security import Caller, authenticate, first_start


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = Database(database_url)
    upgrade(opened)
    yield opened
    opened.close()


@pytest.fixture
def caller(database: Database, tmp_path: Path) -> Caller:
    first_start(database, tmp_path / "home" / "key")
    return authenticate(database, (tmp_path / "home" / "key").read_text().strip())


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
        return Attempts(database).claim(worker_id, "box", lease_seconds, can_run)

    return take
