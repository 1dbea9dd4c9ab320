"""Jobs and their attempts: the one door through which a job's state moves, with its event in the same transaction."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Connection, Row, delete, insert, select, union_all, update

from core import events, origins
from core.database import Database
from core.errors import Conflict, LeaseLost, NotFound, PreconditionFailed
from core.ids import new_id
from core.job import Job, Mark, NewJob, as_job, attempts_of
from core.states import CheckpointKind, ReasonCode, Status, allowed_actions, sources
from core.tables import DRY_RUNS, checkpoints, job_labels, jobs

NEWEST_CHECKPOINT = (checkpoints.c.attempt.desc(), checkpoints.c.step.desc(), checkpoints.c.id.desc())
"""By how far the run was, not by the clock, which may have been set back."""
MARKS_ON_SQLITE = """
SELECT json_group_array(json_array(id, project_id, version, status)) FROM jobs
WHERE id IN (SELECT value FROM json_each(?))
"""
MARKS_ON_POSTGRESQL = """
SELECT coalesce(json_agg(json_build_array(id, project_id, version, status)), '[]')::text FROM jobs
WHERE id = ANY(%s)
"""
RELEASED: dict[str, Any] = {
    "phase": None,
    "token": None,
    "pause_requested_at": None,
    "checkpoint_requested_at": None,
}
"""Of a job that no attempt holds any more."""


class Jobs:
    """The store of jobs. Each verb is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # Made once: to spell out a statement of so many columns takes longer than the database needs for it.
        self._insert = database.stamping(insert(jobs), "available_at", "created_at").returning(jobs)

    # What callers ask

    def create(self, connection: Connection, project_id: str, new: NewJob) -> Job:
        """Put a job in the queue, inside the caller's transaction, which may keep the answer for its key."""
        job_id = new_id("job")
        named = {"start_checkpoint_id": new.start_checkpoint_id, "weights_checkpoint_id": new.weights_checkpoint_id}
        given = {name: value for name, value in named.items() if value is not None}
        if given:
            origins.hold(connection, list(given.values()))
        values = {
            "id": job_id,
            "project_id": project_id,
            "parent_id": new.parent_id,
            "name": new.name,
            "labels": dict(new.labels),
            "subcommand": new.subcommand,
            "config": new.config,
            "class_paths": sorted(new.class_paths),
            "accelerator": new.accelerator,
            "devices": new.devices,
            "nodes": new.nodes,
            "start_checkpoint_id": new.start_checkpoint_id,
            "weights_checkpoint_id": new.weights_checkpoint_id,
            "stop_on_nan": new.stop_on_nan,
            "dry_run": new.dry_run,
            "priority": new.priority,
            "max_seconds": new.max_seconds,
            "max_attempts": new.max_attempts,
            "max_memory_bytes": new.max_memory_bytes,
            "retry_oom": new.retry_oom,
            "status": Status.QUEUED,
            "metrics": {},
            "attempt": 0,
            "attempts_spent": 0,
            "seconds_spent": 0.0,
            "cancel_forced": False,
            "checkpoint_requests": 0,
            "version": 1,
        }
        row = connection.execute(self._insert, values | self._database.stamped("available_at", "created_at")).one()
        self._set_labels(connection, job_id, new.labels)
        told = given | ({"parent_id": new.parent_id} if new.parent_id else {})
        events.append(connection, job_id, "created", row.created_at, **told)
        return as_job(row)

    def get(self, project_id: str, job_id: str) -> Job:
        """The job with its attempts. Raises `NotFound`, also for another project's."""
        with self._database.read() as connection:
            return self._own(connection, project_id, job_id)

    def look_up(self, job_id: str) -> Job | None:
        """The job, whoever it belongs to: for Lightyard's own errands, not for callers."""
        with self._database.read() as connection:
            row = connection.execute(select(jobs).where(jobs.c.id == job_id)).one_or_none()
        return as_job(row) if row is not None else None

    def owned(self, project_id: str, job_ids: Sequence[str]) -> set[str]:
        """Those of the ids that are jobs of the project."""
        query = select(jobs.c.id).where(jobs.c.project_id == project_id, jobs.c.id.in_(job_ids))
        with self._database.read() as connection:
            return set(connection.execute(query).scalars())

    def page(
        self,
        project_id: str,
        *,
        statuses: Sequence[str] = (),
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        oldest_first: bool = False,
        dry_run: bool = False,
        after_id: str | None = None,
        limit: int = 20,
    ) -> Sequence[Job]:
        """Up to `limit` jobs of a project, newest first unless asked otherwise, from behind `after_id` on.

        Those that are dry runs, or those that are not.
        """
        order = jobs.c.id if oldest_first else jobs.c.id.desc()
        # Worded as the index of the few dry runs is, or the database would not use it.
        query = select(jobs).where(jobs.c.project_id == project_id, DRY_RUNS if dry_run else jobs.c.dry_run.is_(False))
        if name is not None:
            query = query.where(jobs.c.name == name)
        for key, value in (labels or {}).items():
            label = select(job_labels.c.job_id).where(job_labels.c.key == key, job_labels.c.value == value)
            query = query.where(jobs.c.id.in_(label))
        if after_id is not None:
            query = query.where(jobs.c.id > after_id if oldest_first else jobs.c.id < after_id)
        if len(statuses) > 1:
            # Of each status the first: together they are no range of the index, and what is between them may be long.
            ids = query.with_only_columns(jobs.c.id).order_by(order).limit(limit)
            each = [ids.where(jobs.c.status == status).subquery() for status in statuses]
            query = select(jobs).where(jobs.c.id.in_(union_all(*[select(one.c.id) for one in each])))
        elif statuses:
            query = query.where(jobs.c.status == statuses[0])
        query = query.order_by(order).limit(limit)
        with self._database.read() as connection:
            rows = connection.execute(query).all()
            tries = attempts_of(connection, [row.id for row in rows if row.attempt])
        return [as_job(row, tries.get(row.id, ())) for row in rows]

    def old_dry_runs(self, hours: float, limit: int) -> Sequence[Job]:
        """Up to `limit` dry runs, of whichever project, that ended so long ago."""
        with self._database.read() as connection:
            before = self._database.now(connection) - timedelta(hours=hours)
            query = select(jobs).where(DRY_RUNS, jobs.c.finished_at < before).limit(limit)
            return [as_job(row) for row in connection.execute(query)]

    def marks(self, job_ids: Sequence[str]) -> dict[str, Mark]:
        """How each of the jobs stands that exists, whoever it belongs to: what polls and watchers compare.

        Asked a thousand times for once that anything else is, so in the database's own words: one parameter, one row.
        """
        statement = MARKS_ON_SQLITE if self._database.is_sqlite else MARKS_ON_POSTGRESQL
        given = orjson.dumps(job_ids).decode() if self._database.is_sqlite else list(job_ids)
        with self._database.read() as connection:
            rows = orjson.loads(connection.exec_driver_sql(statement, (given,)).scalar_one())
        return {job_id: Mark(project_id, version, Status(status)) for job_id, project_id, version, status in rows}

    def look_up_all(self, job_ids: Sequence[str]) -> dict[str, Job]:
        """Those of the jobs that exist, with their attempts, whoever they belong to."""
        with self._database.read() as connection:
            rows = connection.execute(select(jobs).where(jobs.c.id.in_(job_ids))).all()
            tries = attempts_of(connection, [row.id for row in rows])
        return {row.id: as_job(row, tries.get(row.id, ())) for row in rows}

    def cancel(self, project_id: str, job_id: str, *, force: bool = False) -> Job:
        """Cancel a job: at once when it is queued, by request to its worker when it runs.

        Asking again changes nothing, but `force` may follow a request without it. Raises `Conflict` for a job that
        has ended otherwise.
        """
        with self._database.write() as connection:
            job = self._own(connection, project_id, job_id, lock=True)
            now = self._database.now(connection)
            if job.status in (Status.SUCCEEDED, Status.FAILED):
                raise invalid_transition(job, "cancel")
            if job.status in (Status.QUEUED, Status.PAUSED):
                end_as_cancelled(connection, job.id, "cancelled while it waited to run", now)
            elif job.status is Status.RUNNING and (
                job.cancel_requested_at is None or (force and not job.cancel_forced)
            ):
                touch(
                    connection,
                    job.id,
                    cancel_requested_at=job.cancel_requested_at or now,
                    cancel_forced=force or job.cancel_forced,
                )
                events.append(connection, job.id, "cancel_requested", now, force=force)
            return self._own(connection, project_id, job_id)

    def pause(self, project_id: str, job_id: str) -> Job:
        """Take a job out of the queue, or ask its worker to stop it between two steps; it keeps its place in training.

        Asking again changes nothing. Raises `Conflict` for a job that has ended, or is to be cancelled.
        """
        with self._database.write() as connection:
            job = self._own(connection, project_id, job_id, lock=True)
            now = self._database.now(connection)
            if job.is_final or job.cancel_requested_at is not None:
                raise invalid_transition(job, "pause")
            if job.status is Status.QUEUED:
                move(connection, job.id, Status.PAUSED, "paused", now)
            elif job.status is Status.RUNNING and job.pause_requested_at is None:
                touch(connection, job.id, pause_requested_at=now)
                events.append(connection, job.id, "pause_requested", now)
            return self._own(connection, project_id, job_id)

    def resume(self, project_id: str, job_id: str) -> Job:
        """Put a paused job back into the queue, or take back a request to pause.

        One that its worker is stopping already goes back to the queue by itself. Asking again changes nothing.
        Raises `Conflict` for a job that has ended, or is to be cancelled.
        """
        with self._database.write() as connection:
            job = self._own(connection, project_id, job_id, lock=True)
            now = self._database.now(connection)
            if job.is_final or job.cancel_requested_at is not None:
                raise invalid_transition(job, "resume")
            if job.status is Status.PAUSED:
                move(connection, job.id, Status.QUEUED, "unpaused", now, available_at=now)
            elif job.pause_requested_at is not None:
                touch(connection, job.id, pause_requested_at=None)
                events.append(connection, job.id, "pause_withdrawn", now)
            return self._own(connection, project_id, job_id)

    def request_checkpoint(self, project_id: str, job_id: str) -> Job:
        """Ask a running job to save a checkpoint now. Asking again before it has changes nothing.

        Raises `Conflict` for a job that does not run.
        """
        with self._database.write() as connection:
            job = self._own(connection, project_id, job_id, lock=True)
            if job.status is not Status.RUNNING:
                raise invalid_transition(job, "save a checkpoint")
            if job.subcommand != "fit":
                raise Conflict(f"{job.id} runs `{job.subcommand}`: it has nothing to save.", code="nothing_to_save")
            if job.checkpoint_requested_at is None:
                now = self._database.now(connection)
                count = job.checkpoint_requests + 1
                touch(connection, job.id, checkpoint_requested_at=now, checkpoint_requests=count)
                events.append(connection, job.id, "checkpoint_requested", now)
            return self._own(connection, project_id, job_id)

    def patch(self, project_id: str, job_id: str, expected_version: int | None, changes: Mapping[str, Any]) -> Job:
        """Change name, labels, priority or limits.

        Raises `PreconditionFailed` unless the version is still the expected one (None: whichever it is).
        """
        with self._database.write() as connection:
            job = self._own(connection, project_id, job_id, lock=True)
            if expected_version is not None and job.version != expected_version:
                raise PreconditionFailed(
                    f"{job_id} has changed since: it is at version {job.version}, If-Match named {expected_version}. "
                    "Read it again, then repeat the change."
                )
            if changes:
                touch(connection, job_id, **changes)
                if "labels" in changes:
                    connection.execute(delete(job_labels).where(job_labels.c.job_id == job_id))
                    self._set_labels(connection, job_id, changes["labels"])
                events.append(connection, job_id, "updated", fields=sorted(changes))
            return self._own(connection, project_id, job_id)

    def delete(self, project_id: str, job_id: str, remove_files: Callable[[str], None]) -> None:
        """Forget a job that has ended: its files first, its rows last, so that a crash between leaks nothing.

        Raises `Conflict` for one that has not ended, or from whose checkpoints a job is to start that has not ended.
        """
        job = self.get(project_id, job_id)
        if not job.is_final:
            raise invalid_transition(job, "delete")
        with self._database.write() as connection:
            mine = connection.execute(select(checkpoints.c.id).where(checkpoints.c.job_id == job_id)).scalars().all()
            if users := origins.needed(connection, mine):
                raise origins.in_use(users, f"Jobs that have not ended are to start from checkpoints of {job_id}")
        remove_files(job_id)
        with self._database.write() as connection:
            connection.execute(delete(jobs).where(jobs.c.id == job_id))

    # Parts of the above

    def _own(self, connection: Connection, project_id: str, job_id: str, *, lock: bool = False) -> Job:
        query = select(jobs).where(jobs.c.id == job_id, jobs.c.project_id == project_id)
        row = connection.execute(query.with_for_update() if lock else query).one_or_none()
        if row is None:
            raise not_here(job_id)
        return as_job(row, attempts_of(connection, [job_id] if row.attempt else []).get(job_id, ()))

    def _set_labels(self, connection: Connection, job_id: str, labels: Mapping[str, str]) -> None:
        rows = [{"job_id": job_id, "key": key, "value": value} for key, value in labels.items()]
        if rows:
            connection.execute(insert(job_labels), rows[0] if len(rows) == 1 else rows)


def not_here(job_id: str) -> NotFound:
    """The answer to who asks for a job that there is not, or that is another project's."""
    return NotFound(f"There is no job {job_id!r} here.", code="job_not_found")


def invalid_transition(job: Job, action: str) -> Conflict:
    """The refusal of an action that a job's status, or a request to cancel it, does not allow."""
    allowed, state = allowed_actions(job.status), str(job.status)
    if job.cancel_requested_at is not None and not job.is_final:
        allowed, state = tuple(one for one in allowed if one != "pause"), f"{job.status} and to be cancelled"
    return Conflict(
        f"{job.id} is {state}: it cannot {action}.",
        code="invalid_transition",
        status=str(job.status),
        allowed_actions=list(allowed),
    )


def move(
    connection: Connection,
    job_id: str,
    target: Status,
    event_type: str,
    at: datetime,
    *,
    data: Mapping[str, Any] | None = None,
    guard: str | None = None,
    **values: Any,
) -> None:
    """Move a job to a status, with the event that says so; raises `LeaseLost` where the guards forbid it."""
    if not moved(connection, job_id, target, guard=guard, **values):
        raise LeaseLost(f"{job_id} cannot become {target} any more")
    events.append(connection, job_id, event_type, at, **(data or {}))


def moved(connection: Connection, job_id: str, target: Status, *, guard: str | None = None, **values: Any) -> bool:
    """The guarded UPDATE: the status moves only from where the table of states lets it."""
    statement = update(jobs).where(jobs.c.id == job_id, jobs.c.status.in_(sources(target)))
    if guard is not None:
        statement = statement.where(jobs.c.token == guard)
    done = connection.execute(statement.values(status=target, version=jobs.c.version + 1, **values))
    return bool(done.rowcount)


def moved_row(connection: Connection, which: ColumnElement[bool], target: Status, **values: Any) -> Row[Any] | None:
    """The same for the one job that a condition names; its row as it is then, or None where the guard forbids it."""
    statement = update(jobs).where(which, jobs.c.status.in_(sources(target))).returning(jobs)
    return connection.execute(statement.values(status=target, version=jobs.c.version + 1, **values)).one_or_none()


def touch(connection: Connection, job_id: str, *, token: str | None = None, **values: Any) -> None:
    """Change what does not move a status; under a token only while it holds the job. Raises `LeaseLost`."""
    statement = update(jobs).where(jobs.c.id == job_id)
    if token is not None:
        statement = statement.where(jobs.c.token == token)
    if not connection.execute(statement.values(version=jobs.c.version + 1, **values)).rowcount:
        raise LeaseLost(f"{job_id}: this attempt no longer holds the job")


def end_as_cancelled(
    connection: Connection, job_id: str, message: str, at: datetime, *, guard: str | None = None
) -> None:
    """Cancel a job that no attempt trains any more; what it saved last to go on from becomes its last checkpoint."""
    recoveries = select(checkpoints).where(
        checkpoints.c.job_id == job_id, checkpoints.c.kind == CheckpointKind.RECOVERY
    )
    newest = connection.execute(recoveries.order_by(*NEWEST_CHECKPOINT).limit(1)).first()
    reason = {"code": ReasonCode.CANCELLED_BY_USER, "message": message}
    values = RELEASED | {"finished_at": at, "reason": reason}
    if newest is not None:
        name = newest.name.replace(CheckpointKind.RECOVERY, CheckpointKind.STOP, 1)
        kept = update(checkpoints).where(checkpoints.c.id == newest.id).values(kind=CheckpointKind.STOP, name=name)
        connection.execute(kept)
        values["last_checkpoint_id"] = newest.id
    drop_recoveries(connection, job_id)
    move(connection, job_id, Status.CANCELLED, "cancelled", at, data={"reason": reason}, guard=guard, **values)


def drop_recoveries(connection: Connection, job_id: str) -> Sequence[str]:
    """Forget what a job that is about to end saved to go on from, but for what is pinned; returns where the files lie.

    Where nobody removes them after the commit, they are swept.
    """
    mine = (checkpoints.c.job_id == job_id) & (checkpoints.c.kind == CheckpointKind.RECOVERY)
    kept = origins.needed(connection, connection.execute(select(checkpoints.c.id).where(mine)).scalars().all())
    if kept:
        connection.execute(update(checkpoints).where(checkpoints.c.id.in_(kept)).values(let_go=True))
        mine &= checkpoints.c.id.not_in(kept)
    columns = (checkpoints.c.id, checkpoints.c.storage_key)
    gone = connection.execute(
        delete(checkpoints).where(mine, checkpoints.c.pinned.is_(False)).returning(*columns)
    ).all()
    for pointer in (jobs.c.best_checkpoint_id, jobs.c.last_checkpoint_id) if gone else ():
        here = (jobs.c.id == job_id) & pointer.in_([row.id for row in gone])
        connection.execute(update(jobs).where(here).values({pointer.name: None}))
    return [row.storage_key for row in gone]
