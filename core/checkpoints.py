"""Checkpoints and artifacts: rows for files that are whole in the object store before the row exists."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, delete, func, insert, select, update

from core import events, origins
from core.database import Database
from core.errors import Conflict, NotFound, Unavailable
from core.jobs import NEWEST_CHECKPOINT, touch
from core.states import FINAL, CheckpointKind
from core.storage import Store
from core.tables import artifacts, checkpoints, jobs


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that can be downloaded. `step` is Lightning's `global_step`."""

    id: str
    job_id: str
    attempt: int
    kind: str
    name: str
    step: int
    epoch: int
    metrics: dict[str, Any]
    size_bytes: int
    sha256: str
    storage_key: str
    pinned: bool
    created_at: datetime
    is_best: bool = False
    is_last: bool = False
    let_go: bool = False
    """Its run keeps it no more: it goes once no job is to start from it."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """Another file that a run left."""

    id: str
    job_id: str
    attempt: int
    name: str
    media_type: str
    size_bytes: int
    sha256: str
    storage_key: str
    created_at: datetime


class Checkpoints:
    """The store of checkpoints' rows; the files are the object store's."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def publish(self, token: str, new: Checkpoint) -> Sequence[Checkpoint]:
        """Make an uploaded file visible, under the attempt's token; `new.is_best` and `new.is_last` say its part.

        Returns the checkpoints of the same name, which it takes the place of and which are now to be forgotten. May be
        repeated, for the answer of a commit can get lost on its way. Raises `LeaseLost`.
        """
        with self._database.write() as connection:
            pointers: dict[str, Any] = {"last_checkpoint_id": new.id} if new.is_last else {}
            if new.kind == CheckpointKind.REQUESTED:
                pointers["checkpoint_requested_at"] = None
            if new.is_best:
                pointers["best_checkpoint_id"] = new.id
            touch(connection, new.job_id, token=token, **pointers)
            same = select(checkpoints).where(
                checkpoints.c.job_id == new.job_id,
                checkpoints.c.name == new.name,
                checkpoints.c.pinned.is_(False),
                checkpoints.c.id != new.id,
            )
            replaced = [Checkpoint(**row._mapping) for row in connection.execute(same)]
            if connection.execute(select(checkpoints.c.id).where(checkpoints.c.id == new.id)).first() is not None:
                return replaced
            connection.execute(
                insert(checkpoints).values(
                    id=new.id,
                    job_id=new.job_id,
                    attempt=new.attempt,
                    kind=new.kind,
                    name=new.name,
                    step=new.step,
                    epoch=new.epoch,
                    metrics=new.metrics,
                    size_bytes=new.size_bytes,
                    sha256=new.sha256,
                    storage_key=new.storage_key,
                    pinned=new.pinned,
                    let_go=new.let_go,
                    created_at=new.created_at,
                )
            )
            events.append(
                connection,
                new.job_id,
                "checkpoint_saved",
                checkpoint_id=new.id,
                name=new.name,
                kind=new.kind,
                step=new.step,
                epoch=new.epoch,
                sha256=new.sha256,
                size_bytes=new.size_bytes,
            )
        return replaced

    def point(self, job_id: str, token: str, *, best: str | None, last: str | None) -> None:
        """Say which checkpoint is the best and which the last. Raises `LeaseLost`."""
        with self._database.write() as connection:
            touch(connection, job_id, token=token, best_checkpoint_id=best, last_checkpoint_id=last)

    def named(self, job_id: str, name: str) -> Sequence[Checkpoint]:
        """The checkpoints of a job that bear a file's name, newest last."""
        return self._all(select(checkpoints).where(checkpoints.c.job_id == job_id, checkpoints.c.name == name))

    def of_kind(self, job_id: str, kind: str) -> Sequence[Checkpoint]:
        """The checkpoints of a job that are of a kind, newest first: by attempt and step, whatever the clocks said."""
        query = select(checkpoints).where(checkpoints.c.job_id == job_id, checkpoints.c.kind == kind)
        return self._all(query.order_by(*NEWEST_CHECKPOINT))

    def look_up(self, checkpoint_id: str) -> Checkpoint | None:
        """The checkpoint, whoever it belongs to: for Lightyard's own errands, not for callers."""
        found = self._all(select(checkpoints).where(checkpoints.c.id == checkpoint_id))
        return found[0] if found else None

    def any(self) -> bool:
        """Whether there is any checkpoint at all, of whichever project."""
        with self._database.read() as connection:
            return connection.execute(select(checkpoints.c.id).limit(1)).first() is not None

    def page(
        self, project_id: str, job_id: str, *, after_id: str | None = None, limit: int = 20
    ) -> Sequence[Checkpoint]:
        """Up to `limit` checkpoints of a job, newest first."""
        query = (
            _visible(project_id).where(checkpoints.c.job_id == job_id).order_by(checkpoints.c.id.desc()).limit(limit)
        )
        return self._all(query.where(checkpoints.c.id < after_id) if after_id else query)

    def get(self, project_id: str, checkpoint_id: str) -> Checkpoint:
        """One checkpoint. Raises `NotFound`."""
        found = self._all(_visible(project_id).where(checkpoints.c.id == checkpoint_id))
        if not found:
            raise NotFound(f"There is no checkpoint {checkpoint_id!r} here.", code="checkpoint_not_found")
        return found[0]

    def pin(self, project_id: str, checkpoint_id: str, *, pinned: bool) -> Checkpoint:
        """Keep a checkpoint whatever its run decides, or let it go its way again."""
        checkpoint = self.get(project_id, checkpoint_id)
        with self._database.write() as connection:
            touch(connection, checkpoint.job_id)
            connection.execute(update(checkpoints).where(checkpoints.c.id == checkpoint_id).values(pinned=pinned))
        return self.get(project_id, checkpoint_id)

    def delete(self, project_id: str, checkpoint_id: str, store: Store) -> None:
        """Delete a checkpoint: the file first, the row last.

        Raises `Conflict` for one that is pinned or that a job which has not ended is to start from, and `Unavailable`
        when the store is away.
        """
        checkpoint = self.get(project_id, checkpoint_id)
        with self._database.write() as connection:
            if users := origins.needed(connection, [checkpoint_id]):
                raise origins.in_use(users, f"Jobs that have not ended are to start from {checkpoint_id}")
        try:
            gone = not checkpoint.pinned and self.forget(checkpoint, store)
        except OSError as error:
            raise Unavailable("The store of checkpoints is away: try again later.", code="store_unavailable") from error
        if not gone:
            raise Conflict(f"{checkpoint_id} is pinned: unpin it first.", code="checkpoint_pinned")

    def forget(self, checkpoint: Checkpoint, store: Store, *, token: str | None = None) -> bool:
        """Remove a checkpoint's file, then its row, and the job's pointers to it; whether it did.

        One that is pinned by now stays. One that a job is to start from stays until that has ended: then `collect`
        takes it. An attempt says its token: what another attempt has published since is not its to remove. Raises
        `LeaseLost`, and `OSError` when the file cannot be removed; the row stays then.
        """
        store.check()  # before the transaction: a store that hangs must not hold a lock of the database meanwhile
        with self._database.write() as connection:
            # The job's row first, as in every transaction that takes both: so none deadlocks, and no pin slips between.
            if token is None:
                connection.execute(select(jobs.c.id).where(jobs.c.id == checkpoint.job_id).with_for_update())
            else:
                touch(connection, checkpoint.job_id, token=token)
            mine = checkpoints.c.id == checkpoint.id
            if connection.execute(select(checkpoints.c.pinned).where(mine)).scalar_one_or_none() is not False:
                return False
            if origins.needed(connection, [checkpoint.id]):
                connection.execute(update(checkpoints).where(mine).values(let_go=True))
                return False
            store.delete(checkpoint.storage_key)
            connection.execute(delete(checkpoints).where(mine))
            for column in (jobs.c.best_checkpoint_id, jobs.c.last_checkpoint_id):
                connection.execute(
                    update(jobs)
                    .where(jobs.c.id == checkpoint.job_id, column == checkpoint.id)
                    .values({column.name: None, "version": jobs.c.version + 1})
                )
            return True

    def collect(self, store: Store, limit: int = 100) -> int:
        """Remove up to `limit` of those that were let go while a job was to start from them; returns how many went.

        Raises `OSError` when the store is away.
        """
        waiting = select(checkpoints).where(checkpoints.c.let_go, checkpoints.c.pinned.is_(False))
        # Those whose users have not ended yet must not stand before the others for ever.
        users = select(jobs.c.id).where(
            (jobs.c.start_checkpoint_id == checkpoints.c.id) | (jobs.c.weights_checkpoint_id == checkpoints.c.id),
            jobs.c.status.not_in([str(status) for status in FINAL]),
        )
        free = waiting.where(~users.exists()).order_by(checkpoints.c.id).limit(limit)
        return sum(self.forget(checkpoint, store) for checkpoint in self._all(free))

    def _all(self, query: Select[Any]) -> Sequence[Checkpoint]:
        with self._database.read() as connection:
            return [_as_checkpoint(row) for row in connection.execute(query)]


@dataclass(frozen=True, slots=True)
class Holding:
    """How many artifacts there are, and how large they are in all."""

    count: int
    size_bytes: int


class Artifacts:
    """The store of artifacts' rows."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def publish(self, token: str, new: Artifact) -> Sequence[Artifact]:
        """Make an uploaded file visible under its name; returns what it replaced, whose files are now nobody's.

        May be repeated, for the answer of a commit can get lost on its way. Raises `LeaseLost`.
        """
        with self._database.write() as connection:
            touch(connection, new.job_id, token=token)
            if connection.execute(select(artifacts.c.id).where(artifacts.c.id == new.id)).first() is not None:
                return []
            same = (artifacts.c.job_id == new.job_id) & (artifacts.c.name == new.name)
            replaced = [Artifact(**row._mapping) for row in connection.execute(select(artifacts).where(same))]
            connection.execute(delete(artifacts).where(same))
            connection.execute(insert(artifacts).values({c.name: getattr(new, c.name) for c in artifacts.c}))
        return replaced

    def others(self, job_id: str, name: str) -> Holding:
        """What a job has of artifacts besides the one of that name."""
        query = select(func.count(), func.coalesce(func.sum(artifacts.c.size_bytes), 0)).where(
            artifacts.c.job_id == job_id, artifacts.c.name != name
        )
        with self._database.read() as connection:
            count, size_bytes = connection.execute(query).one()
            return Holding(int(count), int(size_bytes))

    def page(self, job_id: str, *, after_name: str | None = None, limit: int = 20) -> Sequence[Artifact]:
        """Up to `limit` artifacts of a job, by name."""
        query = select(artifacts).where(artifacts.c.job_id == job_id).order_by(artifacts.c.name).limit(limit)
        if after_name is not None:
            query = query.where(artifacts.c.name > after_name)
        with self._database.read() as connection:
            return [Artifact(**row._mapping) for row in connection.execute(query)]

    def get(self, job_id: str, name: str) -> Artifact:
        """One artifact by name. Raises `NotFound`."""
        query = select(artifacts).where(artifacts.c.job_id == job_id, artifacts.c.name == name)
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            raise NotFound(f"{job_id} has no artifact named {name!r}.", code="artifact_not_found")
        return Artifact(**row._mapping)


def _visible(project_id: str) -> Select[Any]:
    """A job's pointers say which of its checkpoints is best and last."""
    return (
        select(
            checkpoints,
            (jobs.c.best_checkpoint_id == checkpoints.c.id).label("is_best"),
            (jobs.c.last_checkpoint_id == checkpoints.c.id).label("is_last"),
        )
        .join(jobs, jobs.c.id == checkpoints.c.job_id)
        .where(jobs.c.project_id == project_id)
    )


def _as_checkpoint(row: Row[Any]) -> Checkpoint:
    values = dict(row._mapping)
    for flag in ("is_best", "is_last"):
        values[flag] = bool(values.get(flag))
    return Checkpoint(**values)
