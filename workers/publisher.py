"""Publishing: a file of the run goes into the object store whole, and only then into a row."""

import errno
import hashlib
import mimetypes
import stat
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import structlog
from sqlalchemy.exc import SQLAlchemyError

from core.attempts import Attempts
from core.checkpoints import Artifact, Artifacts, Checkpoint, Checkpoints
from core.claims import Claim
from core.database import Database, is_outage
from core.errors import LeaseLost
from core.ids import new_id
from core.settings import Settings
from core.states import CheckpointKind
from core.storage import Store, job_prefix
from workers.records import Kept, Removed, Saved
from workers.rundir import RunDir, storable

RECOVERY_KEPT = 2
NAME_CHARACTERS = 500
UNREADABLE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.EIO})

T = TypeVar("T")

log = structlog.get_logger()


class Refused(Exception):
    """A file that can never be published. It costs itself alone."""


class Delivery:
    """One file on its way into the store: hashed once and stored once, however often what follows is tried."""

    def __init__(self, source: Path, object_id: str, key: str) -> None:
        self.source = source
        self.object_id = object_id
        self.key = key
        self.sha256 = ""
        self.size_bytes = 0
        self.offered = False  # a row may have been made for it
        self._stored = False

    def store_in(self, store: Store) -> None:
        """Put the file into the store. Raises `Refused` when it cannot be read, `OSError` when it cannot be stored."""
        if not self.sha256:
            self._read()
        # One that lay there while the database was away must not be taken for a leftover now.
        if not (self._stored and store.renew(self.key)):
            store.put(self.source, self.key)
            self._stored = True

    def _read(self) -> None:
        try:
            if not stat.S_ISREG(self.source.lstat().st_mode):
                raise Refused("it is no regular file")
            with self.source.open("rb") as file:
                self.sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                self.size_bytes = file.tell()
        except OSError as error:
            if error.errno not in UNREADABLE:
                raise
            raise Refused(f"it cannot be read: {error.strerror}") from error


class Publisher:
    """Publishes the checkpoints and artifacts of one attempt, under its token.

    Each verb may be repeated after an error. They raise `OSError` when the store is away or full, `SQLAlchemyError`
    when the database is, `LeaseLost`, and `Refused` for what can never be published.
    """

    def __init__(self, database: Database, store: Store, config: Settings, claim: Claim, run: RunDir) -> None:
        self.store = store
        self._database = database
        self._config = config
        self._claim = claim
        self._run = run
        self._attempts = Attempts(database)
        self._checkpoints = Checkpoints(database)
        self._artifacts = Artifacts(database)
        self._deliveries: dict[Path, Delivery] = {}
        self._settled: set[Path] = set()
        self._drop_told = False
        self._log = log.bind(job_id=claim.job.id)

    def tell(self, event_type: str, **data: object) -> None:
        """Record something about the job's files among its events."""
        self._attempts.tell(self._claim.job.id, self._claim.token, event_type, **data)

    def save(self, saved: Saved, source: Path) -> None:
        """Publish a checkpoint, then remove what it takes the place of."""
        job_id = self._claim.job.id
        if source.exists() and not source.lstat().st_size:
            raise Refused("it is empty")
        delivery = self._delivery(source, "ckpt", "checkpoints", ".ckpt")
        delivery.store_in(self.store)
        new = Checkpoint(
            id=delivery.object_id,
            job_id=job_id,
            attempt=self._claim.attempt,
            kind=saved.kind,
            name=saved.name,
            step=saved.step,
            epoch=saved.epoch,
            metrics=saved.metrics,
            size_bytes=delivery.size_bytes,
            sha256=delivery.sha256,
            storage_key=delivery.key,
            pinned=False,
            created_at=saved.at,
            is_best=saved.best,
            is_last=saved.kind != CheckpointKind.RECOVERY,
        )
        self._forget(self._offer(delivery, lambda: self._checkpoints.publish(self._claim.token, new)))
        if saved.kind == CheckpointKind.RECOVERY:
            self._forget(self._checkpoints.of_kind(job_id, CheckpointKind.RECOVERY)[RECOVERY_KEPT:])
        self._deliveries.pop(source, None)

    def keep(self, kept: Kept, source: Path) -> None:
        """Publish an artifact that the run has finished, while it goes on."""
        self._publish_artifact(kept.name, source)
        self._deliveries.pop(source, None)

    def drop(self, record: Saved | Removed | Kept, reason: str) -> None:
        """Tell that a file will not be published; of artifacts, once. A caller that asked for one may ask again."""
        if isinstance(record, Kept):
            self._drop_artifact(record.name, reason)
            return
        asked = isinstance(record, Saved) and record.kind == CheckpointKind.REQUESTED
        values = {"checkpoint_requested_at": None} if asked else {}
        told = ("checkpoint_dropped", datetime.now(UTC), {"name": record.name, "reason": reason})
        with self._database.write() as connection:
            self._attempts.note(connection, self._claim.job.id, self._claim.token, [told], **values)

    def remove(self, removed: Removed) -> None:
        """Remove a checkpoint that the run no longer keeps."""
        self._forget(self._checkpoints.named(self._claim.job.id, removed.name))

    def publish_artifacts(self) -> None:
        """Publish what the run left in its artifacts folder, within the limits."""
        files = sorted(path for path in self._run.artifacts.rglob("*") if path.is_file() and not path.is_symlink())
        for path in files:
            if path in self._settled:
                continue
            name = str(storable(path.relative_to(self._run.artifacts).as_posix()))
            try:
                self._publish_artifact(name, path)
            except Refused as error:
                self._log.warning("artifact_dropped", path=str(path), detail=str(error))
                self._drop_artifact(name, str(error))
            self._settled.add(path)
            discard(path)

    def _drop_artifact(self, name: str, reason: str) -> None:
        if not self._drop_told:
            self.tell("artifact_dropped", name=name[:NAME_CHARACTERS], reason=reason)
            self._drop_told = True

    def _publish_artifact(self, name: str, path: Path) -> None:
        config = self._config
        if len(name) > NAME_CHARACTERS:
            raise Refused(f"its name is longer than {NAME_CHARACTERS} characters")
        try:
            size_bytes = path.lstat().st_size
        except OSError as error:
            if error.errno not in UNREADABLE:
                raise
            raise Refused(f"it cannot be read: {error.strerror}") from error
        if size_bytes > config.artifact_max_bytes:
            raise Refused(f"it is larger than {config.artifact_max_bytes} bytes (LIGHTYARD_ARTIFACT_MAX_BYTES)")
        others = self._artifacts.others(self._claim.job.id, name)
        if others.count >= config.artifacts_max_count:
            raise Refused(f"a job keeps {config.artifacts_max_count} artifacts (LIGHTYARD_ARTIFACTS_MAX_COUNT)")
        if others.size_bytes + size_bytes > config.artifacts_max_bytes:
            raise Refused(f"a job keeps {config.artifacts_max_bytes} bytes (LIGHTYARD_ARTIFACTS_MAX_BYTES)")
        delivery = self._delivery(path, "art", "artifacts", "")
        delivery.store_in(self.store)
        new = Artifact(
            id=delivery.object_id,
            job_id=self._claim.job.id,
            attempt=self._claim.attempt,
            name=name,
            media_type=_media_type(name),
            size_bytes=delivery.size_bytes,
            sha256=delivery.sha256,
            storage_key=delivery.key,
            created_at=datetime.now(UTC),
        )
        for old in self._offer(delivery, lambda: self._artifacts.publish(self._claim.token, new)):
            self.store.delete(old.storage_key)

    def _delivery(self, source: Path, prefix: str, folder: str, suffix: str) -> Delivery:
        """The one under way for a file, or a new one."""
        if source not in self._deliveries:
            object_id = new_id(prefix)
            key = f"{job_prefix(self._claim.job.id)}/{folder}/{object_id}{suffix}"
            self._deliveries[source] = Delivery(source, object_id, key)
        return self._deliveries[source]

    def _offer(self, delivery: Delivery, publish: Callable[[], T]) -> T:
        """Make the row. Where that is refused, the stored file goes again; where it may have been made, it stays."""
        first, delivery.offered = not delivery.offered, True
        try:
            return publish()
        except LeaseLost:
            if first:
                self.store.delete(delivery.key)
            raise
        except SQLAlchemyError as error:
            if is_outage(error):
                raise  # even a commit that was heard no answer to may have been made
            self.store.delete(delivery.key)
            raise Refused("the database refuses its row") from error

    def _forget(self, checkpoints: Iterable[Checkpoint]) -> None:
        for checkpoint in checkpoints:
            self._checkpoints.forget(checkpoint, self.store, token=self._claim.token)


def discard(path: Path) -> None:
    """Remove a file of the run that is done with. One that cannot be removed goes with the run directory."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.info("run_file_not_removed", path=str(path), error=str(error))


def _media_type(name: str) -> str:
    if name.endswith((".yaml", ".yml")):
        return "application/yaml"  # RFC 9512, younger than Python's table
    if name.endswith(".jsonl"):
        return "application/jsonl"
    if name.endswith(".pt"):  # to some machines' tables a font or a game's
        return "application/octet-stream"
    return mimetypes.guess_type(name)[0] or "application/octet-stream"
