"""What keeps the fleet in order: expired leases, doorbells nobody heard, run directories left behind."""

import shutil
import threading
import time
from pathlib import Path

import structlog
from celery import Celery
from kombu.exceptions import OperationalError
from sqlalchemy.exc import SQLAlchemyError

from core.attempts import Attempts, Retry
from core.bell import TASK, queue_of
from core.database import Database
from core.fleet import Fleet
from core.settings import Settings

log = structlog.get_logger()


class Reconciler(threading.Thread):
    """Runs beside a worker's jobs for as long as the worker does."""

    def __init__(self, database: Database, config: Settings, celery: Celery, worker_id: str) -> None:
        super().__init__(name="reconcile", daemon=True)
        self.stopping = threading.Event()
        self._attempts = Attempts(database)
        self._fleet = Fleet(database)
        self._config = config
        self._celery = celery
        self._worker_id = worker_id

    def run(self) -> None:
        """Look again and again; an outage of a part is waited out."""
        swept_at = float("-inf")
        while not self.stopping.is_set():
            try:
                self._look()
                if time.monotonic() - swept_at > self._config.run_keep_seconds / 10:
                    sweep(self._config.runs_path, self._attempts, self._config.run_keep_seconds)
                    swept_at = time.monotonic()
            except SQLAlchemyError as error:
                log.warning("database_away", error=str(error).splitlines()[0])
            except OperationalError as error:
                log.warning("broker_away", error=str(error))
            self.stopping.wait(self._config.reconcile_interval_seconds)

    def _look(self) -> None:
        config = self._config
        self._fleet.beat(self._worker_id)
        retry = Retry(config.retry_backoff_seconds, config.retry_backoff_max_seconds)
        for job_id, status in self._attempts.expire(retry):
            log.warning("lease_expired", job_id=job_id, status=str(status))
        if self._attempts.claimable(self._worker_id, config.ring_after_seconds):
            # Its bell was lost, or rang while every device was taken. Whoever hears this one looks at the whole queue.
            self._celery.send_task(TASK, queue=queue_of("auto"), ignore_result=True, retry=False)


def sweep(runs: Path, attempts: Attempts, keep_seconds: float) -> None:
    """Remove run directories whose attempt has ended and that nobody has written to for `keep_seconds`."""
    cutoff = time.time() - keep_seconds
    for run in runs.glob("job_*/attempt-*"):
        try:
            newest = max(path.stat().st_mtime for path in (run, *run.iterdir()))
        except FileNotFoundError:
            continue
        if newest > cutoff or attempts.is_live(run.parent.name, int(run.name.partition("-")[2])):
            continue
        shutil.rmtree(run, ignore_errors=True)
        if not any(run.parent.iterdir()):
            run.parent.rmdir()
