"""A stack whose worker has the lessons and Lightning's own demos in its catalogue, shared by all tests of features."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import User
from tests.stack import TESTS, Backend, Stack

EXAMPLES = TESTS.parent / "examples"
LESSONS = EXAMPLES / "lessons"
SETTINGS = {
    "LIGHTYARD_CATALOG_MODULES": "models,misbehaving,predicting,lessons,pytorch_lightning.demos",
    "PYTHONPATH": os.pathsep.join([str(TESTS / "user_code"), str(EXAMPLES), str(TESTS.parent)]),
}


@pytest.fixture(scope="session")
def school(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """An API and a worker on SQLite: what Lightning does is the same on every database."""
    backend = Backend("embedded", database_url="", broker_url="")
    with Stack(tmp_path_factory.mktemp("school"), backend, settings=SETTINGS) as running:
        yield running


@pytest.fixture
def pupil(school: Stack) -> User:
    """A caller of it."""
    return User(school)


def lesson(name: str) -> str:
    """The text of an example, as it is submitted."""
    return Path(LESSONS, f"{name}.yaml").read_text()
