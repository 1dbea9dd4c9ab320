"""Dry runs: a job that tries one batch of everything on a worker, ahead of the queue, and is waited for.

It is a job like any other, with its own row, lease and log, so that whatever can go wrong is told as it is of jobs; but
it is listed apart, keeps no checkpoint, and is forgotten after a while.
"""

import time
from dataclasses import replace

import structlog
from starlette.requests import Request
from starlette.responses import Response

from app.schemas.dry_runs import DryRunOut
from app.schemas.resource import answer
from app.service import Service
from app.stream import in_thread
from core.errors import Conflict, NotFound
from core.job import Job, NewJob
from core.security import Caller
from core.settings import Settings
from core.spec import PRIORITY_MAX
from core.states import Status
from core.storage import job_prefix

PRIORITY = PRIORITY_MAX + 1
"""Ahead of whatever a caller may ask for."""
ATTEMPTS_MAX = 2
"""A worker may be lost while it tries."""
LOG_BYTES = 8 * 1024
EVENTS_MAX = 200
RETRY_SECONDS = 1
CLEARED_MAX = 100
"""At once, of those that have ended long ago."""

log = structlog.get_logger("lightyard.api")


def as_dry_run(new: NewJob, config: Settings) -> NewJob:
    """The job that only tries another."""
    return replace(
        new,
        dry_run=True,
        priority=PRIORITY,
        max_seconds=min(new.max_seconds, config.dry_run_max_seconds),
        max_attempts=min(new.max_attempts, ATTEMPTS_MAX),
    )


def refuse_retry(parent: Job) -> None:
    """Raise `Conflict` for a dry run: it is no job to be run again."""
    if parent.dry_run:
        raise Conflict(
            f"{parent.id} is a dry run: submit the job itself, without `dry_run`.",
            code="is_dry_run",
        )


async def tried(request: Request, parts: Service, caller: Caller, made: Response, wait_seconds: float) -> Response:
    """What the dry run found that an answer has just made, or had made before."""
    shown = await found(request, parts, caller, made.headers["Location"].rpartition("/")[2], wait_seconds)
    if replayed := made.headers.get("Idempotent-Replayed"):
        shown.headers["Idempotent-Replayed"] = replayed
    return shown


async def found(request: Request, parts: Service, caller: Caller, job_id: str, wait_seconds: float) -> Response:
    """What a dry run found: 200 once it has ended, waiting for that; 202 where it has not. Raises `NotFound`."""
    job = await in_thread(parts.jobs.get, caller.project_id, job_id)
    if not job.dry_run:
        raise NotFound(f"{job_id} is no dry run.", code="no_dry_run")
    seconds = min(wait_seconds, parts.config.wait_max_seconds)
    if seconds and not job.is_final:
        parts.hub.check_room()
        job = await _ended(request, parts, caller, job, seconds)
    shown = await in_thread(_report, parts, job)
    headers = {"Location": f"/v1/jobs/{job.id}/dry_run"}
    if job.is_final:
        return answer(shown, 200, headers)
    return answer(shown, 202, headers | {"Retry-After": str(RETRY_SECONDS)})


def forget_old(parts: Service) -> None:
    """Delete the dry runs that ended long ago."""
    for job in parts.jobs.old_dry_runs(parts.config.dry_run_keep_hours, CLEARED_MAX):
        try:
            parts.jobs.delete(job.project_id, job.id, lambda gone: parts.store.delete_all(job_prefix(gone)))
        except (OSError, Conflict, NotFound) as error:  # the store is away, or somebody else was first: next time
            log.info("dry_run_not_deleted", job_id=job.id, error=str(error))


async def _ended(request: Request, parts: Service, caller: Caller, job: Job, seconds: float) -> Job:
    """The job, once it has ended, the time is over or the caller has hung up."""
    deadline = time.monotonic() + seconds
    await request.body()  # if a GET has one, it is not what is waited for
    async with parts.hub.watching(job.id, request.receive) as watch:
        while not job.is_final and await watch.changed(job.version, max(0.0, deadline - time.monotonic())):
            job = await in_thread(parts.jobs.get, caller.project_id, job.id)
    return job


def _report(parts: Service, job: Job) -> DryRunOut:
    waiting = parts.queue.waiting(job, parts.config.worker_silence_seconds) if job.status is Status.QUEUED else None
    printed = parts.logs.read(job.id, -LOG_BYTES, LOG_BYTES).data.decode(errors="replace")
    return DryRunOut.of(job, parts.events.after(job.id, 0, EVENTS_MAX), printed, waiting)
