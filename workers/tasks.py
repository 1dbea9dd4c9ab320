"""The one task: somebody rang, so look at the queue and run what there is until nothing fits."""

import os
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from celery import Celery
from sqlalchemy.exc import SQLAlchemyError

from core.bell import TASK
from core.claims import Claims
from core.database import Database, is_outage
from core.settings import Settings
from core.storage import Store
from workers.announce import Inventory
from workers.forkserver import wait_until_warm
from workers.supervisor import Supervisor

REST_SECONDS = 5.0
REST_MAX_SECONDS = 300.0

log = structlog.get_logger()


class Desk:
    """What every ring of the bell in this worker works with."""

    def __init__(
        self, database: Database, store: Store, config: Settings, worker_id: str, inventory: Inventory
    ) -> None:
        self.shutting_down = threading.Event()
        self._database = database
        self._store = store
        self._config = config
        self.worker_id = worker_id
        self.queue = f"lightyard.worker.{worker_id}"
        self._claims = Claims(database)
        self._class_paths = frozenset(entry.class_path for entry in inventory.catalog.entries)
        self._threads = _threads(inventory.devices)
        self._rests_until = 0.0
        self._rest_seconds = REST_SECONDS

    def work(self) -> None:
        """Claim and run jobs, best first, until none is left that fits. One that was rung for may be gone already."""
        try:
            while not self.shutting_down.is_set() and not self.rests and self._work_once():
                pass
        except SQLAlchemyError as error:
            if not is_outage(error):
                raise
            log.warning("database_away", error=str(error).splitlines()[0])  # the reconciler rings when it is back
        except (OSError, EOFError) as error:
            self._rest(f"the fork server gave no process: {error!r}")

    @property
    def rests(self) -> bool:
        """Whether this worker leaves the queue to others for a while, for it could not start what it was given."""
        return time.monotonic() < self._rests_until

    def _work_once(self) -> bool:
        """Claim and run one job; whether there was one."""
        wait_until_warm()
        claim = self._claims.claim(self.worker_id, self._config.worker, self._config.lease_seconds, self.can_run)
        if claim is None:
            return False
        log.info("claimed", job_id=claim.job.id, attempt=claim.attempt, devices=claim.devices)
        supervisor = Supervisor(self._database, self._store, self._config, claim, self._threads, self.shutting_down)
        if supervisor.run():
            self._rest_seconds = REST_SECONDS
        else:
            # What it could not start, it may not start next either: other workers go first.
            self._rest(f"{claim.job.id} could not be started")
        return True

    def _rest(self, why: str) -> None:
        log.warning("worker_rests", seconds=self._rest_seconds, detail=why)
        self._rests_until = time.monotonic() + self._rest_seconds
        self._rest_seconds = min(2 * self._rest_seconds, REST_MAX_SECONDS)

    def has_work(self, older_than_seconds: float) -> bool:
        """Whether a job that this worker could run now has waited for so long that its bell may be lost."""
        return not self.rests and self._claims.claimable(self.worker_id, older_than_seconds, self.can_run)

    def can_run(self, class_paths: Sequence[str]) -> bool:
        """Whether this worker announced all of these classes."""
        return self._class_paths.issuperset(class_paths)


def _threads(devices: Sequence[Mapping[str, Any]]) -> int:
    """Threads of a trainer: its share of the cores where several slots share them, else as many as by hand.

    Ranks that all use every core are many times slower than ranks that share them, for OpenMP's threads spin.
    """
    slots = sum(device["id"].startswith("cpu:") for device in devices)
    return max(1, (os.cpu_count() or 1) // slots) if slots > 1 else 0


def register(app: Celery, desk: Desk) -> None:
    """Make the task known to a Celery application."""

    @app.task(name=TASK, ignore_result=True)
    def work(job_id: str | None = None) -> None:
        desk.work()
