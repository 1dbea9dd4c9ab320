"""Uploads: what the spool says of files, done in its order, beside the shipping of all else.

Each record waits as a file in the run directory, `uploads/<where its line begins in the spool>`: the checkpoint or the
artifact itself, or an empty file for a checkpoint that was removed. So another supervisor finds what is left to do, and
nothing more need be written on a disk that may be full.
"""

import errno
import threading
from dataclasses import dataclass
from pathlib import Path

import structlog
from sqlalchemy.exc import SQLAlchemyError

from core.errors import LeaseLost
from core.states import CheckpointKind
from core.storage import FULL
from workers.publisher import RECOVERY_KEPT, Publisher, Refused, discard
from workers.records import Kept, Removed, Saved, record_at
from workers.rundir import RunDir

RETRY_SECONDS = 1.0
RETRY_MAX_SECONDS = 30.0
UNEXPECTED_MAX = 5

log = structlog.get_logger()


@dataclass(eq=False, slots=True)
class Upload:
    """A record that waits for its turn, in the file `path`."""

    record: Saved | Removed | Kept
    path: Path
    failures: int = 0


class Uploads(threading.Thread):
    """Works the records off until drained, stopped, or `lost` is set, which it sets itself when it learns so.

    `error` is why files cannot be stored, while so; `done` that all are stored, the artifacts too. An outage of the
    store is waited out, with growing pauses, and told to the job's events. What became needless while it waited is
    left out: the disk must not fill with recovery checkpoints that newer ones have replaced.
    """

    def __init__(self, publisher: Publisher, run: RunDir, line_max_bytes: int, lost: threading.Event) -> None:
        super().__init__(name=f"uploads {run.path.parent.name}", daemon=True)
        self.error: OSError | None = None
        self.done = False
        self._publisher = publisher
        self._run = run
        self._folder = run.path / "uploads"
        self._line_max_bytes = line_max_bytes
        self._lost = lost
        self._changed = threading.Condition()
        self._waiting: list[Upload] = []
        self._active: Upload | None = None
        self._draining = False
        self._stopped = False
        self._pause_seconds = RETRY_SECONDS
        self._away_told = False
        self._log = log.bind(job_id=run.path.parent.name)

    # What the shipper does

    def restore(self) -> None:
        """Take up what an earlier supervisor of the attempt left to do. Raises `OSError`."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._waiting.clear()
        for path in sorted(path for path in self._folder.iterdir() if path.name.isdecimal()):
            record = record_at(self._run.spool, int(path.name), self._line_max_bytes)
            if isinstance(record, Saved | Removed | Kept):
                self._append(Upload(record, path))
            else:
                self._log.warning("upload_unknown", file=path.name)
                discard(path)

    def add(self, offset: int, record: Saved | Removed | Kept) -> None:
        """Take up a record whose line begins at byte `offset` of the spool; the same one again changes nothing.

        From then on it is done, even if by another supervisor. Raises `OSError`.
        """
        path = self._folder / f"{offset:020d}"
        self._folder.mkdir(mode=0o700, exist_ok=True)
        if isinstance(record, Removed):
            path.touch()
        else:
            source = self._run.outbox / record.file
            try:
                source.rename(path)
            except FileNotFoundError:
                if source.exists():
                    raise
                return  # it was taken before, and all was done but to note how far the spool is read
        self._append(Upload(record, path))

    def drain(self) -> None:
        """End once all that waits is done, and the artifacts are stored."""
        with self._changed:
            self._draining = True
            self._changed.notify_all()

    def stop(self) -> None:
        """End soon, whatever is left."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    # The thread

    def run(self) -> None:
        """Work until drained, stopped or lost."""
        while not self.done and not self._stopped and not self._lost.is_set():
            try:
                self._next()
            except LeaseLost:
                self._lost.set()
            except SQLAlchemyError as error:
                self.error = None  # the store is not what fails
                self._log.warning("database_away", error=str(error).splitlines()[0])
                self._pause(RETRY_SECONDS)
            except OSError as error:
                self._fail(error)
            except Exception:
                self._log.exception("upload_failed")
                self._give_up_in_the_end()
                self._pause(RETRY_SECONDS)

    def _next(self) -> None:
        """Do what is first, or wait for something to do."""
        with self._changed:
            self._active = self._waiting[0] if self._waiting else None
        if self._active is not None:
            self._do(self._active)
            self._finish(self._active)
        elif self._draining:
            self._publisher.publish_artifacts()
            if self._publisher.store.is_there:
                self._recover()
            self.done = True
            return
        elif not self._away_told:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._draining or self._stopped)
            return
        self._recover()

    def _do(self, upload: Upload) -> None:
        try:
            if isinstance(upload.record, Saved):
                self._publisher.save(upload.record, upload.path)
            elif isinstance(upload.record, Kept):
                self._publisher.keep(upload.record, upload.path)
            else:
                self._publisher.remove(upload.record)
        except Refused as error:
            self._log.warning("file_dropped", name=upload.record.name, reason=str(error), cause=error.__cause__)
            self._publisher.drop(upload.record, str(error))

    def _finish(self, upload: Upload) -> None:
        with self._changed:
            if upload in self._waiting:
                self._waiting.remove(upload)
            self._active = None
        discard(upload.path)

    def _recover(self) -> None:
        """The store is there: say so where it was said that it was not. Raises `OSError` when it is not, after all."""
        if self._away_told:
            self._publisher.store.check()
            self._publisher.tell("store_back")
            self._away_told = False
        self.error = None
        self._pause_seconds = RETRY_SECONDS

    def _fail(self, error: OSError) -> None:
        self.error = error
        self._log.warning("files_not_stored", error=str(error), retry_seconds=self._pause_seconds)
        try:
            if not self._away_told:
                reason = "it is full" if error.errno in FULL else errno.errorcode.get(error.errno or 0, "it is away")
                self._publisher.tell("store_away", reason=reason, out_of_space=error.errno in FULL)
                self._away_told = True
        except LeaseLost:
            self._lost.set()
        except SQLAlchemyError as outage:
            self._log.warning("database_away", error=str(outage).splitlines()[0])
        self._pause(self._pause_seconds)
        self._pause_seconds = min(2 * self._pause_seconds, RETRY_MAX_SECONDS)

    def _give_up_in_the_end(self) -> None:
        """An error that nobody foresaw may pass; one that does not must not hold up all behind it."""
        if self._active is not None:
            self._active.failures += 1
            if self._active.failures >= UNEXPECTED_MAX:
                self._log.error("file_dropped", name=self._active.record.name)
                self._finish(self._active)

    def _pause(self, seconds: float) -> None:
        with self._changed:
            self._active = None
            self._changed.wait_for(lambda: self._stopped, seconds)

    # What waits

    def _append(self, new: Upload) -> None:
        with self._changed:
            needless = [old for old in self._waiting if old is not self._active and _replaces(new, old)]
            recoveries = [old for old in [*self._waiting, new] if _is_recovery(old) and old is not self._active]
            needless += [old for old in recoveries[:-RECOVERY_KEPT] if old not in needless]
            self._waiting = [old for old in self._waiting if old not in needless]
            self._waiting.append(new)
            self._changed.notify_all()
        for old in needless:
            self._log.info("upload_needless", name=old.record.name)
            discard(old.path)


def _replaces(new: Upload, old: Upload) -> bool:
    """Whether a file that waits is of no use any more: removed, or saved again under its name."""
    same = isinstance(old.record, Kept) == isinstance(new.record, Kept) and old.record.name == new.record.name
    return same and not isinstance(old.record, Removed)


def _is_recovery(upload: Upload) -> bool:
    return isinstance(upload.record, Saved) and upload.record.kind == CheckpointKind.RECOVERY
