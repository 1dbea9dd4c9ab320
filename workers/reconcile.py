"""What keeps the fleet in order: expired leases, doorbells nobody heard, run directories left behind, preemption."""

import os
import shutil
import threading
import time
from pathlib import Path

import structlog
from celery import Celery
from kombu.exceptions import OperationalError
from sqlalchemy.exc import SQLAlchemyError

from core.attempts import Attempts, Retry
from core.bell import TASK
from core.checkpoints import Checkpoints
from core.database import Database
from core.fleet import Fleet
from core.leftovers import Leftovers
from core.preemption import Preemption
from core.reaper import Reaper
from core.settings import Settings
from core.storage import Store
from workers.orphans import Orphans
from workers.rundir import RunDir
from workers.tasks import Desk

SWEEP_SECONDS = 60.0

log = structlog.get_logger()


class Reconciler(threading.Thread):
    """Runs beside a worker's jobs for as long as the worker does."""

    def __init__(self, database: Database, store: Store, config: Settings, celery: Celery, desk: Desk) -> None:
        super().__init__(name="reconcile", daemon=True)
        self.stopping = threading.Event()
        self._attempts = Attempts(database)
        retry = Retry(config.retry_backoff_seconds, config.retry_backoff_max_seconds)
        self._reaper = Reaper(self._attempts, retry)
        self._fleet = Fleet(database)
        self._orphans = Orphans(database, store, config, self.stopping)
        self._leftovers = Leftovers(database, store, older_than_seconds=config.leftover_seconds)
        self._checkpoints = Checkpoints(database)
        self._store = store
        self._preemption = Preemption(database, desk.assembly)
        self._config = config
        self._celery = celery
        self._desk = desk
        self._sweeping = threading.Thread(target=self._sweep, name="sweep", daemon=True)

    def run(self) -> None:
        """Look again and again; an outage of a part is waited out."""
        self._sweeping.start()
        while not self.stopping.is_set():
            try:
                self._look()
            except SQLAlchemyError as error:
                log.warning("database_away", error=str(error).splitlines()[0])
            except OperationalError as error:
                log.warning("broker_away", error=str(error))
            except Exception:
                log.exception("reconciler_failed")
            self.stopping.wait(self._config.reconcile_interval_seconds)
        try:
            self._fleet.rest(self._desk.worker_id)
            self._desk.decline()
        except SQLAlchemyError as error:
            log.warning("database_away", error=str(error).splitlines()[0])

    def _look(self) -> None:
        self._desk.stand_by()
        self._fleet.beat(self._desk.worker_id, accepts=self._desk.accepts)
        if not self._desk.accepts:
            self._desk.decline()
        for job_id, status in self._reaper.look():
            log.warning("lease_expired", job_id=job_id, status=str(status))
        if self._desk.has_work(self._config.ring_after_seconds):
            # Its bell was lost, or rang while every device was taken. This worker has one free, so it rings for itself.
            expires = self._config.ring_after_seconds * 10
            self._celery.send_task(TASK, queue=self._desk.queue, expires=expires, ignore_result=True, retry=False)
        elif self._config.preemption and not self._desk.rests:
            ring_after, can_run = self._config.ring_after_seconds, self._desk.can_run
            for job_id in self._preemption.make_room(self._desk.worker_id, ring_after, can_run):
                log.info("preempted", job_id=job_id)

    def _sweep(self) -> None:
        while True:
            try:
                self._orphans.settle()
                sweep(self._config.runs_path, self._attempts, self._config.run_keep_seconds)
                self._leftovers.sweep()
                self._checkpoints.collect(self._store)
            except SQLAlchemyError as error:
                log.warning("database_away", error=str(error).splitlines()[0])
            except OSError as error:
                log.warning("store_away", error=str(error))
            except Exception:
                log.exception("sweep_failed")
            if self.stopping.wait(SWEEP_SECONDS):
                return


def sweep(runs: Path, attempts: Attempts, keep_seconds: float) -> None:
    """Remove run directories that nobody holds, have been settled or are of deleted jobs, `keep_seconds` after the end.

    Several workers may share a home and sweep it at once.
    """
    cutoff = time.time() - keep_seconds
    for path in runs.glob("job_*/attempt-*"):
        of = RunDir(path).of_what()
        try:
            if of is None or attempts.is_live(of[0], of[1]):
                continue
            if max(one.stat().st_mtime for one in (path, *path.iterdir())) > cutoff:
                continue
            run = RunDir(path)
            if run.job.exists() and not run.ended.exists() and attempts.known(path.parent.name):
                continue  # there may be something in it that has not been shipped
            _remove(run)
            if not any(path.parent.iterdir()):
                path.parent.rmdir()
        except OSError as error:  # swept by another meanwhile, or made unreadable by the run
            log.info("run_directory_not_swept", run=str(path), error=str(error))


def _remove(run: RunDir) -> None:
    """Remove a run directory, unless a supervisor holds it."""
    held = run.hold()
    if held is not None:
        shutil.rmtree(run.path, ignore_errors=True)
        os.close(held)
