"""How long to keep trying, and how to wait in between."""

import random
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


@dataclass(frozen=True, slots=True)
class Retry:
    """A retry policy.

    A call that keeps failing is given up `budget_seconds` after its first failure; waits begin at
    `first_wait_seconds` and double up to `max_wait_seconds`, each shortened at random by up to a half so that many
    clients do not come back at once.
    """

    budget_seconds: float = 20.0
    first_wait_seconds: float = 0.25
    max_wait_seconds: float = 5.0


class Backoff:
    """The state of one call under a `Retry`: how often it has failed, and since when."""

    def __init__(self, retry: Retry) -> None:
        self._retry = retry
        self._failures = 0
        self._first_failure = 0.0

    def reset(self) -> None:
        """Something got through: the budget starts anew."""
        self._failures = 0

    def next_wait(self, retry_after_seconds: float | None = None) -> float | None:
        """Seconds to wait before the next try, or None when that would pass the budget.

        `retry_after_seconds` is what the service asked for; it is waited in full, or not at all.
        """
        now = time.monotonic()
        if self._failures == 0:
            self._first_failure = now
        retry, jitter = self._retry, random.random()  # noqa: S311  jitter is no secret
        wait = min(retry.max_wait_seconds, retry.first_wait_seconds * 2 ** min(self._failures, 30)) * (1 - jitter / 2)
        if retry_after_seconds is not None:
            wait = retry_after_seconds + jitter * min(retry.first_wait_seconds, retry_after_seconds)
        self._failures += 1
        return None if now + wait > self._first_failure + retry.budget_seconds else wait


def retry_after_seconds(header: str | None) -> float | None:
    """Read a `Retry-After` header (RFC 9110, 10.2.3): seconds, or a date. None when absent or unreadable."""
    if not header:
        return None
    if header.strip().isdecimal():
        return float(header)
    try:
        when = parsedate_to_datetime(header)
    except ValueError:
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())
