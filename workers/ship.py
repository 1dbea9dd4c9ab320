"""Shipping: what a trainer wrote into its run directory goes to the database and the object store.

The spool is read in order; what a record says is committed together with how far the spool has been read, so a record
is in the database once, however often shipping is interrupted.
"""

import hashlib
import mimetypes
import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy.exc import SQLAlchemyError

from core.attempts import Attempts
from core.checkpoints import Artifact, Artifacts, Checkpoint, Checkpoints
from core.claims import Claim
from core.database import Database, is_outage
from core.errors import LeaseLost
from core.ids import new_id
from core.logs import Logs
from core.metrics import Metrics, Point, newest
from core.settings import Settings
from core.storage import Store, job_prefix
from workers.records import Entered, Happened, RecordError, Removed, Saved, read_record
from workers.rundir import Progress, RunDir, storable

READ_BYTES = 4 * 2**20
LOG_CHUNK_BYTES = 64 * 1024
LOG_EVERY_SECONDS = 1.0
PROGRESS_EVERY_SECONDS = 0.5
SPEED_WINDOW_SECONDS = 10.0
RETRY_SECONDS = 1.0
SHUTDOWN_SECONDS = 10.0
NAME_CHARACTERS = 500
RECOVERY = "recovery"
RECOVERY_KEPT = 2

log = structlog.get_logger()


@dataclass(slots=True)
class Batch:
    """What one transaction writes."""

    offset: int
    points: list[Point] = field(default_factory=list)
    happened: list[tuple[str, datetime, dict[str, Any]]] = field(default_factory=list)
    phase: str | None = None


class Shipper(threading.Thread):
    """Ships one attempt until told to finish, then until all is shipped.

    It stops when `lost` is set, and sets it when the attempt's token no longer counts. `error` holds why files cannot
    be stored, while so.
    """

    def __init__(
        self, database: Database, store: Store, config: Settings, claim: Claim, run: RunDir, lost: threading.Event
    ) -> None:
        super().__init__(name=f"ship {claim.job.id}", daemon=True)
        self.error: OSError | None = None
        self._lost = lost
        self._database = database
        self._store = store
        self._config = config
        self._claim = claim
        self._run = run
        self._attempts = Attempts(database)
        self._checkpoints = Checkpoints(database)
        self._metrics = Metrics(database)
        self._logs = Logs(database)
        self._finishing = threading.Event()
        self._abandoned = threading.Event()
        self._all_shipped = False
        self._offset = 0
        self._log_offset = 0
        self._logged_at = 0.0
        self._latest: dict[str, Any] = dict(claim.job.metrics)
        self._speed: deque[Progress] = deque()
        self._told_at = 0.0
        self._told: Progress | None = None
        self._log = log.bind(job_id=claim.job.id)

    def run(self) -> None:
        """Ship until finished, lost or abandoned."""
        while not self._lost.is_set() and not self._abandoned.is_set():
            finishing = self._finishing.is_set()
            pause = self._config.ship_interval_seconds
            try:
                rest = self._ship(everything=finishing)
                self.error = None
                if finishing and not rest:
                    self._all_shipped = True
                    return
                pause = 0.0 if rest else pause
            except LeaseLost:
                self._lost.set()
            except SQLAlchemyError as error:
                self._log.warning("database_away", error=str(error).splitlines()[0])
                pause = RETRY_SECONDS
            except OSError as error:
                self._log.warning("files_not_stored", error=str(error))
                self.error = error
                pause = RETRY_SECONDS
            except Exception:
                self._log.exception("shipping_failed")
                pause = RETRY_SECONDS
            (self._abandoned if finishing else self._finishing).wait(pause)

    def finish(self, store_retry_seconds: float, shutting_down: threading.Event) -> bool:
        """Ship the rest, now that the trainer has ended; whether all of it was.

        An outage of the database is waited out. Files that cannot be stored are tried again for the time given. A
        worker that shuts down has a tenth of it.
        """
        self._finishing.set()
        began = time.monotonic()
        while self.is_alive():
            self.join(0.1)
            waited = time.monotonic() - began
            hopeless = self.error is not None and waited > store_retry_seconds
            if self._lost.is_set() or hopeless or (shutting_down.is_set() and waited > SHUTDOWN_SECONDS):
                self.abandon()
        return self._all_shipped

    def abandon(self) -> None:
        """Stop, whatever is left."""
        self._abandoned.set()
        self._finishing.set()
        if self.is_alive():
            self.join(SHUTDOWN_SECONDS)

    def _ship(self, *, everything: bool) -> bool:
        """Ship what there is, up to a limit; whether there is more."""
        more = self._ship_spool()
        more = self._ship_log(everything=everything) or more
        self._ship_progress(everything=everything)
        if everything and not more:
            self._ship_artifacts()
        return more

    def _ship_spool(self) -> bool:
        try:
            with self._run.spool.open("rb") as file:
                file.seek(self._offset)
                data = file.read(READ_BYTES)
        except FileNotFoundError:
            return False  # the run removed it: there is nothing more to read
        lines = data.split(b"\n")
        tail = lines.pop()
        batch = Batch(offset=self._offset)
        for line in lines:
            if len(batch.points) >= self._config.ship_batch_points:
                self._commit(batch)
                batch = Batch(offset=self._offset)
            self._take(line, batch)
        if len(tail) > self._config.spool_line_max_bytes:
            self._log.warning("spool_line_dropped", size_bytes=len(tail))
            batch.offset += len(tail)
        self._commit(batch)
        return len(data) == READ_BYTES

    def _take(self, line: bytes, batch: Batch) -> None:
        """Add what a line says to the batch; what is said of files is done at once, in its place in the order."""
        try:
            record = read_record(line)
        except RecordError as error:
            # User code can write into the run directory. A line that is not ours costs that line.
            self._log.warning("spool_line_refused", error=str(error))
            record = None
        if isinstance(record, Saved | Removed):
            self._commit(batch)
            if isinstance(record, Saved):
                self._publish(record)
            else:
                self._forget(self._checkpoints.named(self._claim.job.id, record.name))
        batch.offset += len(line) + 1
        if isinstance(record, Happened):
            batch.happened.append((record.type, record.at, record.data))
        elif isinstance(record, Entered):
            batch.phase = record.phase
        elif isinstance(record, list):
            batch.points.extend(record)

    def _commit(self, batch: Batch) -> None:
        """Write a batch together with how far the spool has been read, then empty it."""
        if batch.offset == self._offset:
            return
        try:
            self._write(batch)
        except SQLAlchemyError as error:
            if is_outage(error):
                raise
            # The records were checked; still, what the database refuses once it refuses for ever.
            self._log.exception("spool_records_refused", points=len(batch.points), events=len(batch.happened))
            self._write(Batch(offset=batch.offset))
        self._offset = batch.offset
        batch.points, batch.happened, batch.phase = [], [], None

    def _write(self, batch: Batch) -> None:
        values: dict[str, Any] = {}
        latest = self._latest
        if batch.points:
            latest = dict(list((latest | newest(batch.points)).items())[: self._config.metric_names_max_count])
            values["metrics"] = latest
        if batch.phase is not None:
            values["phase"] = batch.phase
        with self._database.write() as connection:
            self._attempts.note(
                connection, self._claim.job.id, self._claim.token, batch.happened, spool_offset=batch.offset, **values
            )
            if batch.points:
                most = self._config.metric_names_max_count
                dropped = self._metrics.add(connection, self._claim.job.id, batch.points, most)
                if dropped:
                    self._log.warning("metric_names_dropped", names=sorted(dropped)[:10])
        self._latest = latest

    def _publish(self, saved: Saved) -> None:
        source = self._run.outbox / saved.file
        if not source.exists():
            return  # published by an earlier pass that was interrupted after it
        job_id = self._claim.job.id
        checkpoint_id = new_id("ckpt")
        key = f"{job_prefix(job_id)}/checkpoints/{checkpoint_id}.ckpt"
        sha256, size = self._put(source, key)
        new = Checkpoint(
            id=checkpoint_id,
            job_id=job_id,
            attempt=self._claim.attempt,
            kind=saved.kind,
            name=saved.name,
            step=saved.step,
            epoch=saved.epoch,
            metrics=saved.metrics,
            size_bytes=size,
            sha256=sha256,
            storage_key=key,
            pinned=False,
            created_at=saved.at,
            is_best=saved.best,
            is_last=saved.kind != RECOVERY,
        )
        try:
            replaced = self._checkpoints.publish(self._claim.token, new)
        except Exception:
            self._store.delete(key)
            raise
        source.unlink(missing_ok=True)
        self._forget(replaced)
        if new.kind == RECOVERY:
            self._forget(self._checkpoints.of_kind(job_id, RECOVERY)[RECOVERY_KEPT:])

    def _put(self, source: Path, key: str) -> tuple[str, int]:
        """Store a file; its sha256 and its size in bytes."""
        with source.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        self._store.put(source, key)
        return sha256, source.stat().st_size

    def _forget(self, checkpoints: Iterable[Checkpoint]) -> None:
        for checkpoint in checkpoints:
            self._checkpoints.forget(checkpoint, self._store, token=self._claim.token)

    def _ship_log(self, *, everything: bool) -> bool:
        limit = self._config.log_max_bytes
        if self._log_offset >= limit:
            return False
        size = self._run.log.stat().st_size
        waiting = size - self._log_offset
        due = waiting >= LOG_CHUNK_BYTES or time.monotonic() - self._logged_at > LOG_EVERY_SECONDS or everything
        if not waiting or not due:
            return False
        with self._run.log.open("rb") as file:
            file.seek(self._log_offset)
            data = file.read(min(LOG_CHUNK_BYTES, limit - self._log_offset))
        told = data
        if self._log_offset + len(data) >= limit:
            told += f"\n[lightyard: this log is longer than {limit} bytes; the rest is dropped]\n".encode()
        with self._database.write() as connection:
            self._attempts.note(connection, self._claim.job.id, self._claim.token)
            self._logs.add(connection, self._claim.job.id, self._claim.attempt, self._log_offset, told)
        self._log_offset += len(data)
        self._logged_at = time.monotonic()
        return self._log_offset < size

    def _ship_progress(self, *, everything: bool) -> None:
        now = self._run.read_progress()
        unchanged = self._told is not None and now is not None and now.batches == self._told.batches
        if now is None or unchanged or (time.monotonic() - self._told_at < PROGRESS_EVERY_SECONDS and not everything):
            return
        self._speed.append(now)
        while len(self._speed) > 2 and now.at - self._speed[0].at > SPEED_WINDOW_SECONDS:
            self._speed.popleft()
        with self._database.write() as connection:
            told = _progress(now, self._speed[0])
            self._attempts.note(connection, self._claim.job.id, self._claim.token, progress=told)
        self._told, self._told_at = now, time.monotonic()

    def _ship_artifacts(self) -> None:
        files = sorted(path for path in self._run.artifacts.rglob("*") if path.is_file() and not path.is_symlink())
        most = self._config.artifacts_max_count
        if len(files) > most:
            self._log.warning("artifacts_dropped", kept=most, dropped=len(files) - most)
        for path in files[:most]:
            name = str(storable(path.relative_to(self._run.artifacts).as_posix()))
            size = path.stat().st_size
            if size > self._config.artifact_max_bytes or len(name) > NAME_CHARACTERS:
                self._log.warning("artifact_dropped", name=name, size_bytes=size)
                continue
            self._publish_artifact(path, name)
            path.unlink()

    def _publish_artifact(self, path: Path, name: str) -> None:
        artifact_id = new_id("art")
        key = f"{job_prefix(self._claim.job.id)}/artifacts/{artifact_id}"
        sha256, size = self._put(path, key)
        new = Artifact(
            id=artifact_id,
            job_id=self._claim.job.id,
            attempt=self._claim.attempt,
            name=name,
            media_type=_media_type(name),
            size_bytes=size,
            sha256=sha256,
            storage_key=key,
            created_at=datetime.now(UTC),
        )
        try:
            replaced = Artifacts(self._database).publish(self._claim.token, new)
        except Exception:
            self._store.delete(key)
            raise
        for old in replaced:
            self._store.delete(old.storage_key)


def _media_type(name: str) -> str:
    if name.endswith((".yaml", ".yml")):
        return "application/yaml"  # RFC 9512, younger than Python's table
    return mimetypes.guess_type(name)[0] or "application/octet-stream"


def _progress(now: Progress, before: Progress) -> dict[str, Any]:
    """The job's `progress`: steps per second over the last `SPEED_WINDOW_SECONDS`, and what follows from it."""
    seconds = now.at - before.at
    speed = (now.global_step - before.global_step) / seconds if seconds > 0 else None
    left = None if now.max_steps is None else max(0, now.max_steps - now.global_step)
    return {
        "epoch": now.epoch,
        "global_step": now.global_step,
        "max_steps": now.max_steps,
        "fraction": None if not now.max_steps else min(1.0, now.global_step / now.max_steps),
        "steps_per_second": None if speed is None else round(speed, 3),
        "eta_seconds": None if left is None or not speed else round(left / speed, 1),
    }
