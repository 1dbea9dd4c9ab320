"""One API for all tests on each database, emptied before each; tests that need other settings start their own."""

from collections.abc import Iterator

import pytest

from core.log import configure
from core.settings import Settings
from core.tables import api_keys, metadata, projects
from tests.app.parts import Api, running_api
from tests.servers import empty_database

KEPT = {projects.name, api_keys.name}


@pytest.fixture(scope="session")
def _sqlite_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("api")
    configure(Settings(home=folder))
    with running_api(folder, f"sqlite:///{folder / 'lightyard.db'}") as running:
        yield running


@pytest.fixture(scope="session")
def _postgresql_api(tmp_path_factory: pytest.TempPathFactory, postgres_url: str) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("api")
    configure(Settings(home=folder))
    with empty_database(postgres_url) as url, running_api(folder, url) as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def api(request: pytest.FixtureRequest) -> Api:
    """An API without jobs or workers, on each database."""
    return emptied(request.getfixturevalue(f"_{request.param}_api"))


@pytest.fixture
def any_api(_sqlite_api: Api) -> Api:
    """An API without jobs or workers, for what no database has a part in."""
    return emptied(_sqlite_api)


def emptied(running: Api) -> Api:
    """The same, with its project and key alone."""
    with running.database.write() as connection:
        for table in reversed(metadata.sorted_tables):
            if table.name not in KEPT:
                connection.execute(table.delete())
    return running
