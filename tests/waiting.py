"""The one place where tests wait: on a condition, with a deadline."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

POLL_SECONDS = 0.02


def wait_until(condition: Callable[[], T], *, what: str, deadline_seconds: float = 10.0) -> T:
    """Ask `condition` until it is true and return its value; fail the test, naming `what`, after the deadline."""
    deadline = time.monotonic() + deadline_seconds
    while True:
        if value := condition():
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {deadline_seconds:g} s: {what}; last seen: {value!r}")
        time.sleep(POLL_SECONDS)
