"""Shipping: what a trainer wrote into its run directory goes to the database and the object store.

The spool is read in order; what a record says is committed together with how far the spool has been read, so a record
is in the database once, however often shipping is interrupted. What it says of files is handed to the uploads once all
before it is committed, so whoever goes on from a checkpoint finds everything that came before it.
"""

import threading
import time
from collections.abc import Callable
from typing import Any

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from core.attempts import Attempts
from core.claims import Claim
from core.database import Database, is_outage
from core.errors import LeaseLost
from core.logs import CHUNK_BYTES
from core.metrics import Metrics, newest
from core.settings import Settings
from core.storage import FULL, Store
from workers.progress import Speedometer
from workers.publisher import Publisher
from workers.rank_logs import RankLogs, Ranks
from workers.records import Batch, Kept, Removed, Saved, read_spool
from workers.rundir import Progress, RunDir
from workers.uploads import Uploads

LOG_EVERY_SECONDS = 1.0
PROGRESS_EVERY_SECONDS = 0.5
RETRY_SECONDS = 1.0
JOIN_SECONDS = 0.1
ABANDON_SECONDS = 10.0
OF_FILES = (Saved, Removed, Kept)

log = structlog.get_logger()


class Shipper(threading.Thread):
    """Ships one attempt until told to finish, then until all is shipped.

    It starts at byte `offset` of the spool: what lies before is in the database; `again`: so may some of the logs be.
    It stops when `lost` is set, and sets it when the attempt's token no longer counts.
    """

    def __init__(
        self,
        database: Database,
        store: Store,
        config: Settings,
        claim: Claim,
        run: RunDir,
        lost: threading.Event,
        *,
        offset: int = 0,
        again: bool = False,
    ) -> None:
        super().__init__(name=f"ship {claim.job.id}", daemon=True)
        self._lost = lost
        self._database = database
        self._config = config
        self._claim = claim
        self._run = run
        self._attempts = Attempts(database)
        self._metrics = Metrics(database)
        self._uploads = Uploads(Publisher(database, store, config, claim, run), run, config.spool_line_max_bytes, lost)
        ranks = Ranks(0, len(claim.devices), claim.world_size)
        limit = config.log_max_bytes
        self._logs = RankLogs(database, claim.job.id, claim.attempt, run, ranks, limit, shipped=again)
        self._finishing = threading.Event()
        self._abandoned = threading.Event()
        self._unreadable: OSError | None = None
        self._all_shipped = False
        self._offset = offset
        self._logged_at = 0.0
        self._latest: dict[str, Any] = dict(claim.job.metrics)
        self._speed = Speedometer()
        self._told_at = 0.0
        self._told: Progress | None = None
        self._log = log.bind(job_id=claim.job.id)

    @property
    def error(self) -> OSError | None:
        """Why files cannot be stored, or the run directory not be read, while so."""
        return self._uploads.error or self._unreadable

    @property
    def out_of_space(self) -> bool:
        """Whether files cannot be stored because a disk is full, and not because the store is away."""
        error = self.error
        return error is not None and error.errno in FULL

    def run(self) -> None:
        """Ship until finished, lost or abandoned."""
        restored = False
        # There is nothing to ship yet, and a trainer that starts has use for the cores.
        self._finishing.wait(self._config.ship_interval_seconds)
        try:
            while not self._stopped():
                finishing = self._finishing.is_set()
                pause = self._config.ship_interval_seconds
                try:
                    if not restored:
                        self._uploads.restore()
                        self._uploads.start()
                        restored = True
                    rest = self._ship(everything=finishing)
                    self._unreadable = None
                    if finishing and not rest:
                        self._finish_uploads()
                        return
                    pause = 0.0 if rest else pause
                except LeaseLost:
                    self._lost.set()
                except SQLAlchemyError as error:
                    self._log.warning("database_away", error=str(error).splitlines()[0])
                    pause = RETRY_SECONDS
                except OSError as error:
                    self._log.warning("run_directory_unreadable", error=str(error))
                    self._unreadable = error
                    pause = RETRY_SECONDS
                except Exception:
                    self._log.exception("shipping_failed")
                    pause = RETRY_SECONDS
                (self._abandoned if finishing else self._finishing).wait(pause)
        finally:
            self._uploads.stop()

    def finish(self, shutting_down: threading.Event, given_up: Callable[[], bool] = lambda: False) -> bool:
        """Ship the rest, now that the trainer has ended; whether all of it was.

        An outage of the database is waited out, one of the store for `store_away_max_seconds`, a full disk for
        `store_full_max_seconds`. A worker that shuts down has `stop_grace_seconds`; once `given_up`, it is over.
        """
        self._finishing.set()
        config, began = self._config, time.monotonic()
        failing_since: float | None = None
        while self.is_alive():
            self.join(JOIN_SECONDS)
            now = time.monotonic()
            failing_since = None if self.error is None else failing_since or now
            away = self._uploads.error is not None and not self.out_of_space
            most = config.store_away_max_seconds if away else config.store_full_max_seconds
            hopeless = failing_since is not None and now - failing_since > most
            late = self._lost.is_set() or (shutting_down.is_set() and now - began > config.stop_grace_seconds)
            if hopeless or late or given_up():
                self.abandon()
        return self._all_shipped

    def abandon(self) -> None:
        """Stop, whatever is left."""
        self._abandoned.set()
        self._finishing.set()
        self._uploads.stop()
        for thread in (self, self._uploads):
            if thread.is_alive():
                thread.join(ABANDON_SECONDS)

    def _stopped(self) -> bool:
        return self._lost.is_set() or self._abandoned.is_set()

    def _finish_uploads(self) -> None:
        self._uploads.drain()
        while self._uploads.is_alive() and not self._stopped():
            self._uploads.join(JOIN_SECONDS)
        self._all_shipped = self._uploads.done

    def _ship(self, *, everything: bool) -> bool:
        """Ship what there is, up to a limit; whether there is more."""
        progress = self._progress(everything=everything)
        more = self._ship_spool(progress)
        return self._ship_log(everything=everything) or more

    def _ship_spool(self, progress: Progress | None) -> bool:
        """Ship what the spool says; how far the run is goes with the first of it, or alone."""
        batch = Batch(offset=self._offset, progress=progress)
        spool = read_spool(self._run.spool, self._offset, self._config.spool_line_max_bytes)
        for line in spool.lines:
            if line.refused:
                # User code can write into the run directory. A line that is not ours costs that line.
                self._log.warning("spool_line_refused", error=line.refused)
            if isinstance(line.record, OF_FILES):
                self._commit(batch)
                self._uploads.add(line.start, line.record)
            batch.add(line)
            if batch.point_count >= self._config.ship_batch_points:
                self._commit(batch)
        self._commit(batch)
        return spool.more

    def _commit(self, batch: Batch) -> None:
        """Write a batch together with how far the spool has been read, then empty it."""
        if batch.offset == self._offset and batch.progress is None:
            return
        try:
            self._write(batch)
        except SQLAlchemyError as error:
            if is_outage(error):
                raise
            # The records were checked; still, what the database refuses once it refuses for ever.
            self._log.exception("spool_records_refused", points=batch.point_count, events=len(batch.happened))
            self._write(Batch(offset=batch.offset, progress=batch.progress))
        self._offset, batch.progress = batch.offset, None
        batch.logged, batch.point_count, batch.happened, batch.phase, batch.summary = [], 0, [], None, None

    def _write(self, batch: Batch) -> None:
        values: dict[str, Any] = {}
        latest = self._latest
        if batch.logged:
            latest = dict(list((latest | newest(batch.logged)).items())[: self._config.metric_names_max_count])
            values["metrics"] = latest
        if batch.progress is not None:
            values["progress"] = self._speed.read(batch.progress)
        if batch.phase is not None:
            values["phase"] = batch.phase
        if batch.summary is not None:
            values["summary"] = batch.summary
        with self._database.write() as connection:
            self._attempts.note(
                connection, self._claim.job.id, self._claim.token, batch.happened, spool_offset=batch.offset, **values
            )
            if batch.logged:
                most = self._config.metric_names_max_count
                dropped = self._metrics.add(connection, self._claim.job.id, batch.logged, most)
                if dropped:
                    self._log.warning("metric_names_dropped", names=sorted(dropped)[:10])
        self._latest = latest
        if batch.progress is not None:
            self._told, self._told_at = batch.progress, time.monotonic()

    def _ship_log(self, *, everything: bool) -> bool:
        waiting = self._logs.waiting_bytes()
        due = waiting >= CHUNK_BYTES or time.monotonic() - self._logged_at > LOG_EVERY_SECONDS or everything
        if not waiting or not due:
            return False
        more = self._logs.ship(self._may)
        self._logged_at = time.monotonic()
        return more

    def _may(self, connection: Connection) -> bool:
        self._attempts.note(connection, self._claim.job.id, self._claim.token)
        return True

    def _progress(self, *, everything: bool) -> Progress | None:
        """How far the run is, where that is to be told now."""
        now = self._run.read_progress()
        unchanged = self._told is not None and now is not None and now.batches == self._told.batches
        too_soon = time.monotonic() - self._told_at < PROGRESS_EVERY_SECONDS and not everything
        return None if unchanged or too_soon else now
