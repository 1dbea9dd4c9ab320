"""Shipping: what a trainer wrote into its run directory goes to the database and the object store.

The spool is read in order; what a record says is committed together with how far the spool has been read, so a record
is in the database once, however often shipping is interrupted.
"""

import hashlib
import mimetypes
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import structlog
from sqlalchemy.exc import SQLAlchemyError

from core.attempts import Attempts, Claim
from core.checkpoints import Artifact, Artifacts, Checkpoint, Checkpoints
from core.database import Database
from core.errors import LeaseLost
from core.ids import new_id
from core.logs import Logs
from core.metrics import Metrics, Point, newest
from core.settings import Settings
from core.storage import Store, job_prefix
from workers.rundir import Progress, RunDir

READ_BYTES = 4 * 2**20
LOG_CHUNK_BYTES = 64 * 1024
LOG_EVERY_SECONDS = 1.0
PROGRESS_EVERY_SECONDS = 0.5
SPEED_WINDOW_SECONDS = 10.0
RETRY_SECONDS = 1.0
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

    `lost` is set when the attempt's token no longer counts; `error` holds why files could not be stored, while so.
    """

    def __init__(self, database: Database, store: Store, config: Settings, claim: Claim, run: RunDir) -> None:
        super().__init__(name=f"ship {claim.job.id}", daemon=True)
        self.lost = threading.Event()
        self.error: OSError | None = None
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
        self._give_up_at = float("inf")
        self._offset = 0
        self._log_offset = 0
        self._logged_at = 0.0
        self._latest: dict[str, Any] = dict(claim.job.metrics)
        self._speed: deque[Progress] = deque()
        self._told_at = 0.0
        self._told: Progress | None = None

    def run(self) -> None:
        """Ship until finished, lost, or out of time."""
        while not self.lost.is_set():
            finishing = self._finishing.is_set()
            pause = self._config.ship_interval_seconds
            try:
                rest = self._ship(everything=finishing)
                self.error = None
                if finishing and not rest:
                    return
                pause = 0.0 if rest else pause
            except LeaseLost:
                self.lost.set()
            except SQLAlchemyError as error:
                log.warning("database_away", job_id=self._claim.job.id, error=str(error).splitlines()[0])
                pause = RETRY_SECONDS
            except OSError as error:
                log.warning("files_not_stored", job_id=self._claim.job.id, error=str(error))
                self.error = error
                pause = RETRY_SECONDS
            if finishing and time.monotonic() > self._give_up_at:
                return
            (self.lost if finishing else self._finishing).wait(pause)

    def finish(self, timeout_seconds: float) -> None:
        """Ship the rest, now that the trainer has ended, and return; after the time, with a rest left."""
        self._give_up_at = time.monotonic() + timeout_seconds
        self._finishing.set()
        self.join()

    def _ship(self, *, everything: bool) -> bool:
        """Ship what there is, up to a limit; whether there is more."""
        more = self._ship_spool()
        more = self._ship_log(everything=everything) or more
        self._ship_progress(everything=everything)
        if everything and not more:
            self._ship_artifacts()
        return more

    def _ship_spool(self) -> bool:
        with self._run.spool.open("rb") as file:
            file.seek(self._offset)
            data = file.read(READ_BYTES)
        lines = data.split(b"\n")
        tail = lines.pop()
        batch = Batch(offset=self._offset)
        for line in lines:
            batch.offset += len(line) + 1
            self._take(line, batch)
            if len(batch.points) >= self._config.ship_batch_points:
                self._commit(batch)
                batch = Batch(offset=self._offset)
        if len(tail) > self._config.spool_line_max_bytes:
            log.warning("spool_line_dropped", job_id=self._claim.job.id, size_bytes=len(tail))
            batch.offset += len(tail)
        self._commit(batch)
        return len(data) == READ_BYTES

    def _take(self, line: bytes, batch: Batch) -> None:
        try:
            record = orjson.loads(line)
            at = datetime.fromtimestamp(record["at"], UTC)
            match record["is"]:
                case "metrics":
                    step, epoch = int(record["step"]), record["epoch"]
                    batch.points.extend(
                        Point(str(name)[:255], step, epoch, float(value), at)
                        for name, value in record["values"].items()
                    )
                case "event":
                    batch.happened.append((str(record["type"])[:40], at, record["data"]))
                case "phase":
                    batch.phase = str(record["phase"])[:20]
                case "checkpoint":
                    # What came before it is committed first, so that the order of the spool is that of the events.
                    offset, batch.offset = batch.offset, batch.offset - len(line) - 1
                    self._commit(batch)
                    self._publish(record, at)
                    self._reset(batch, offset)
                case "checkpoint_removed":
                    for old in self._checkpoints.named(self._claim.job.id, record["name"]):
                        if not old.pinned:
                            self._checkpoints.forget(old, self._store)
        except (ValueError, KeyError, TypeError) as error:
            # User code can write into the run directory. A line that is not ours costs that line.
            log.warning("spool_line_refused", job_id=self._claim.job.id, error=repr(error))

    def _reset(self, batch: Batch, offset: int) -> None:
        batch.offset = offset
        batch.points, batch.happened, batch.phase = [], [], None

    def _commit(self, batch: Batch) -> None:
        if batch.offset == self._offset:
            return
        latest = self._latest | newest(batch.points)
        values: dict[str, Any] = {}
        if batch.points:
            values["metrics"] = dict(list(latest.items())[: self._config.metric_names_max_count])
        if batch.phase is not None:
            values["phase"] = batch.phase
        with self._database.write() as connection:
            self._attempts.note(
                connection, self._claim.job.id, self._claim.token, batch.happened, spool_offset=batch.offset, **values
            )
            if batch.points:
                dropped = self._metrics.add(
                    connection, self._claim.job.id, batch.points, self._config.metric_names_max_count
                )
                if dropped:
                    log.warning("metric_names_dropped", job_id=self._claim.job.id, names=sorted(dropped)[:10])
        self._latest = latest
        self._offset = batch.offset

    def _publish(self, record: dict[str, Any], at: datetime) -> None:
        source = self._run.outbox / Path(record["file"]).name
        if not source.exists():
            return  # published by an earlier pass that was interrupted after it
        job_id = self._claim.job.id
        with source.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        checkpoint_id = new_id("ckpt")
        key = f"{job_prefix(job_id)}/checkpoints/{checkpoint_id}.ckpt"
        size = source.stat().st_size
        self._store.put(source, key)
        new = Checkpoint(
            id=checkpoint_id,
            job_id=job_id,
            attempt=self._claim.attempt,
            kind=str(record["kind"])[:20],
            name=str(record["name"])[:255],
            step=int(record["step"]),
            epoch=int(record["epoch"]),
            metrics=record["metrics"],
            size_bytes=size,
            sha256=sha256,
            storage_key=key,
            pinned=False,
            created_at=at,
            is_best=bool(record["best"]),
            is_last=record["kind"] != RECOVERY,
        )
        try:
            replaced = self._checkpoints.publish(self._claim.token, new)
        except (LeaseLost, SQLAlchemyError):
            self._store.delete(key)
            raise
        for old in replaced:
            self._store.delete(old.storage_key)
        source.unlink(missing_ok=True)
        if new.kind == RECOVERY:
            for old in self._checkpoints.of_kind(job_id, RECOVERY)[RECOVERY_KEPT:]:
                self._checkpoints.forget(old, self._store)

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
        artifacts = Artifacts(self._database)
        files = sorted(path for path in self._run.artifacts.rglob("*") if path.is_file() and not path.is_symlink())
        for path in files[: self._config.artifacts_max_count]:
            name = path.relative_to(self._run.artifacts).as_posix()
            size = path.stat().st_size
            if size > self._config.artifact_max_bytes or len(name) > 500:
                log.warning("artifact_dropped", job_id=self._claim.job.id, name=name, size_bytes=size)
                continue
            with path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            artifact_id = new_id("art")
            key = f"{job_prefix(self._claim.job.id)}/artifacts/{artifact_id}"
            self._store.put(path, key)
            artifacts.publish(
                self._claim.token,
                Artifact(
                    id=artifact_id,
                    job_id=self._claim.job.id,
                    attempt=self._claim.attempt,
                    name=name,
                    media_type=_media_type(name),
                    size_bytes=size,
                    sha256=sha256,
                    storage_key=key,
                    created_at=datetime.now(UTC),
                ),
            )
            path.unlink()


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
