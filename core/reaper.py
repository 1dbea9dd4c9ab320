"""The reaper: gives back the jobs of attempts whose lease has run out."""

import time
from collections.abc import Sequence

from sqlalchemy.exc import SQLAlchemyError

from core.attempts import Attempts, Retry
from core.states import Status


class Reaper:
    """Requeues the jobs of expired leases, from a process that has been able to reach the database all the while.

    After an outage every lease has run out, though every worker may be well: whoever requeued at once would kill
    healthy training. So a process expires leases only after it has itself reached the database, without a break, for
    as long as a lease lasts: by then each worker that lives has renewed its own.
    """

    def __init__(self, attempts: Attempts, retry: Retry, lease_seconds: float) -> None:
        self._attempts = attempts
        self._retry = retry
        self._lease_seconds = lease_seconds
        self._reached_since: float | None = None

    def look(self) -> Sequence[tuple[str, Status]]:
        """Requeue what has expired; returns each job and where it went. Raises `SQLAlchemyError` in an outage."""
        try:
            self._attempts.reach()
            now = time.monotonic()
            if self._reached_since is None:
                self._reached_since = now
            if now - self._reached_since < self._lease_seconds:
                return []
            return self._attempts.expire(self._retry)
        except SQLAlchemyError:
            self._reached_since = None
            raise
