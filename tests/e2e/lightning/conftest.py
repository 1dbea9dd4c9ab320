"""What tests of Lightning's features have in common: the lessons, submitted to a real API and a real worker."""

from pathlib import Path

import pytest

from tests.e2e.conftest import User
from tests.stack import TESTS, Stack

EXAMPLES = TESTS.parent / "examples"
LESSONS = EXAMPLES / "lessons"


@pytest.fixture(scope="session")
def school(embedded_stack: Stack) -> Stack:
    """SQLite, for what Lightning does is the same on every database."""
    embedded_stack.have_workers(1)
    return embedded_stack


@pytest.fixture
def pupil(school: Stack) -> User:
    """A caller of it."""
    school.have_workers(1)
    return User(school)


def lesson(name: str) -> str:
    """The text of an example, as it is submitted."""
    return Path(LESSONS, f"{name}.yaml").read_text()
