"""The lease of one attempt: kept alive from the claim to the end, whatever else its supervisor is busy with."""

import threading
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

import structlog
from sqlalchemy.exc import SQLAlchemyError

from core.attempts import RENEWALS_PER_LEASE
from core.claims import Claim
from core.database import is_outage
from core.errors import LeaseLost
from core.orders import Orders

LOOK_SECONDS = 0.25
DATABASE_RETRY_SECONDS = 1.0

T = TypeVar("T")

log = structlog.get_logger()


class Hold(Protocol):
    """What is renewed: an attempt, or a member's seat in one."""

    def renew(self, job_id: str, token: str) -> Orders:
        """Keep it, and learn what is asked. Raises `LeaseLost`."""

    def orders(self, job_id: str, token: str) -> Orders:
        """What is asked. Raises `LeaseLost`."""


class Lease(threading.Thread):
    """Renews an attempt's lease every third of its length, and learns what callers ask of the job in between.

    `lost` is set once another holds the job; whatever waits on it stops.
    """

    def __init__(
        self,
        hold: Hold,
        claim: Claim,
        lease_seconds: float,
        shutting_down: threading.Event,
        grace_seconds: float,
    ) -> None:
        super().__init__(name=f"lease {claim.job.id}", daemon=True)
        self.lost = threading.Event()
        self.orders = Orders.at_claim(claim.job)
        self._stopping = threading.Event()
        self._hold = hold
        self._claim = claim
        self._lease_seconds = lease_seconds
        self._shutting_down = shutting_down
        self._grace_seconds = grace_seconds
        self._give_up_at: float | None = None

    def run(self) -> None:
        """Look again and again until told to stop. An outage of the database is waited out: nobody can take the job."""
        renewed_at = time.monotonic()
        job_id, token = self._claim.job.id, self._claim.token
        while not self._stopping.wait(min(LOOK_SECONDS, self._lease_seconds / 6)):
            try:
                if time.monotonic() - renewed_at > self._lease_seconds / RENEWALS_PER_LEASE:
                    self.orders = self._hold.renew(job_id, token)
                    renewed_at = time.monotonic()
                else:
                    self.orders = self._hold.orders(job_id, token)
            except LeaseLost:
                self.lost.set()
                return
            except SQLAlchemyError as error:
                log.warning("database_away", job_id=job_id, error=str(error).splitlines()[0])

    def stop(self) -> None:
        """Let the lease be: the attempt has ended."""
        self._stopping.set()

    def insist(self, verb: Callable[[], T]) -> T:
        """Do it once the database is there. Raises `LeaseLost` as `pause` does."""
        while True:
            try:
                return verb()
            except SQLAlchemyError as error:
                if not is_outage(error):
                    raise
                log.warning("database_away", job_id=self._claim.job.id, error=str(error).splitlines()[0])
                self.pause(DATABASE_RETRY_SECONDS)

    def pause(self, seconds: float) -> None:
        """Wait before trying again. Raises `LeaseLost` when it is lost, or a worker that stops has had its grace."""
        if self._shutting_down.is_set() or self._shutting_down.wait(seconds):
            now = time.monotonic()
            self._give_up_at = self._give_up_at or now + self._grace_seconds
            if now > self._give_up_at or self.lost.wait(min(seconds, self._grace_seconds)):
                raise LeaseLost("the worker shuts down, and the database is away")
        if self.lost.is_set():
            raise LeaseLost("another holds the job")

    @property
    def is_shutting_down(self) -> bool:
        """Whether the worker is about to stop."""
        return self._shutting_down.is_set()
