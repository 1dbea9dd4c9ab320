"""Streams that follow a job to its end: what is new whenever it changes, a comment while nothing is."""

import time
from collections.abc import AsyncIterator, Callable

import anyio
import structlog
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request
from starlette.responses import Response

from app.deps import STEP_MAX
from app.head import is_head
from app.service import Service
from app.stream import COMMENT, OUTAGE_PAUSE_SECONDS, EventStream, in_thread, message, opening
from core.errors import BadRequest, NotFound
from core.job import Job
from core.security import Caller

log = structlog.get_logger("lightyard.api")


def follow(
    request: Request, parts: Service, caller: Caller, job_id: str, drain: Callable[[Job], list[bytes]]
) -> Response:
    """A stream of what `drain` finds, batch by batch until it finds nothing, each time the job has changed.

    The job must be the caller's. `drain` runs in a thread, after the job it is given was read; so all that a job that
    has ended will ever tell is there for it. Raises `Unavailable` when too many streams are open.
    """
    if is_head(request):
        return EventStream(_nothing())
    parts.hub.check_room()
    return EventStream(_following(parts, caller, job_id, drain))


def resume_from(last_event_id: str | None) -> int:
    """The number in a `Last-Event-ID` of one of our streams; 0 without one. Raises `BadRequest`."""
    if last_event_id is None:
        return 0
    if last_event_id.isascii() and last_event_id.isdecimal() and len(last_event_id) <= 16:
        return min(int(last_event_id), STEP_MAX)
    raise BadRequest(
        f"Last-Event-ID {last_event_id[:50]!r} is no id of this stream: ids are numbers.", code="bad_last_event_id"
    )


async def _following(
    parts: Service, caller: Caller, job_id: str, drain: Callable[[Job], list[bytes]]
) -> AsyncIterator[bytes]:
    keepalive_seconds = parts.config.stream_keepalive_seconds
    yield opening()
    last_sent = time.monotonic()
    async with parts.hub.watching(job_id) as watch:
        while not parts.hub.is_closing:
            try:
                job = await in_thread(parts.jobs.get, caller.project_id, job_id)
                while batch := await in_thread(drain, job):
                    for piece in batch:
                        yield piece
                    last_sent = time.monotonic()
            except NotFound:
                yield message("done", {"status": "deleted"})
                return
            except SQLAlchemyError as error:
                log.warning("stream_lost_the_database", job_id=job_id, error=str(error).partition("\n")[0])
                await anyio.sleep(OUTAGE_PAUSE_SECONDS)
            else:
                if job.is_final:
                    yield message("done", {"status": job.status.value})
                    return
                silent_seconds = time.monotonic() - last_sent
                await watch.changed(job.version, max(0.0, keepalive_seconds - silent_seconds))
            if time.monotonic() - last_sent >= keepalive_seconds:
                yield COMMENT
                last_sent = time.monotonic()


async def _nothing() -> AsyncIterator[bytes]:
    nothing: tuple[bytes, ...] = ()
    for piece in nothing:
        yield piece
