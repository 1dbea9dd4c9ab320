"""The reaper: gives back the jobs of attempts whose lease has run out."""

import time
from collections.abc import Sequence

from sqlalchemy.exc import SQLAlchemyError

from core.attempts import Attempts, Retry
from core.states import Status


class Reaper:
    """Requeues the jobs of attempts that have not renewed their lease, on any of their machines, while it lasted.

    What counts is how often a lease was renewed, and how long that has not grown by this process's monotonic clock: no
    step of any clock expires one. After an outage no lease has been renewed, though every worker may be well: whoever
    requeued at once would kill healthy training. So the wait begins anew whenever the database could not be reached,
    or this process itself has stood still.
    """

    def __init__(self, attempts: Attempts, retry: Retry) -> None:
        self._attempts = attempts
        self._retry = retry
        self._looked_at = 0.0
        self._shortest_gap_seconds = float("inf")
        self._since: dict[tuple[str, int], tuple[int, float]] = {}
        """When each lease was first seen with as many renewals as it has."""

    def look(self) -> Sequence[tuple[str, Status]]:
        """Requeue what has expired; returns each job and where it went. Raises `SQLAlchemyError` in an outage."""
        try:
            leases = self._attempts.leases()
            now = time.monotonic()
            gap_seconds, self._looked_at = now - self._looked_at, now
            self._shortest_gap_seconds = min(self._shortest_gap_seconds, gap_seconds)
            # By what it is used to, too: who looks rarely, for as long as its leases last, would else never expire one.
            stood_still = gap_seconds > 2 * self._shortest_gap_seconds
            seen = {lease.key: (lease.renewals, now) for lease in leases}
            for key, (renewals, since) in self._since.items():
                if key in seen and seen[key][0] == renewals:
                    seen[key] = (renewals, since)
            moved = []
            for lease in leases:
                if stood_still and gap_seconds > lease.seconds / 2:
                    seen[lease.key] = (lease.renewals, now)
                elif now - seen[lease.key][1] > lease.seconds:
                    status = self._attempts.expire(lease, self._retry)
                    if status is not None:
                        self._attempts.shun(lease)
                        moved.append((lease.job_id, status))
            self._since = seen
        except SQLAlchemyError:
            self._since = {}
            raise
        return moved
