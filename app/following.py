"""Streams that follow a job to its end: what is new whenever it changes, a comment while nothing is."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable

import anyio
import structlog
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request
from starlette.responses import Response

from app.deps import STEP_MAX
from app.head import is_head
from app.service import Service
from app.stream import COMMENT, OUTAGE_PAUSE_SECONDS, EventStream, message, opening
from core.errors import BadRequest, NotFound
from core.job import Mark
from core.security import Caller

log = structlog.get_logger("lightyard.api")

Drain = Callable[[Mark], Awaitable[tuple[bytes, bool]]]
"""What is new, as server-sent events, and whether there may be more of it."""


def follow(request: Request, parts: Service, caller: Caller, job_id: str, mark: Mark, drain: Drain) -> Response:
    """A stream of what `drain` finds, until it finds no more, each time the job has changed.

    The job must be the caller's, and `mark` tell how it stands. `drain` looks after the job was looked at as it is
    given; so all that a job that has ended will ever tell is there for it. Raises `Unavailable` when too many streams
    are open.
    """
    if is_head(request):
        return EventStream(_nothing())
    parts.hub.check_room()
    return EventStream(_following(request, parts, caller, job_id, mark, drain))


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
    request: Request, parts: Service, caller: Caller, job_id: str, mark: Mark, drain: Drain
) -> AsyncIterator[bytes]:
    keepalive_seconds = parts.config.stream_keepalive_seconds
    yield opening()
    last_sent = time.monotonic()
    async with parts.hub.watching(job_id, request.receive) as watch:
        while not parts.hub.is_closing and not watch.has_left:
            try:
                more = True
                while more and not watch.has_left:
                    text, more = await drain(mark)
                    if text:
                        yield text
                        last_sent = time.monotonic()
                if mark.is_final:
                    yield message("done", {"status": mark.status.value})
                    return
                silent_seconds = time.monotonic() - last_sent
                if await watch.changed(mark.version, max(0.0, keepalive_seconds - silent_seconds)):
                    mark = watch.mark or await parts.reads.mark(caller, job_id)
            except NotFound:
                yield message("done", {"status": "deleted"})
                return
            except SQLAlchemyError as error:
                log.warning("stream_lost_the_database", job_id=job_id, error=str(error).partition("\n")[0])
                await anyio.sleep(OUTAGE_PAUSE_SECONDS)
            if time.monotonic() - last_sent >= keepalive_seconds:
                yield COMMENT
                last_sent = time.monotonic()


async def _nothing() -> AsyncIterator[bytes]:
    nothing: tuple[bytes, ...] = ()
    for piece in nothing:
        yield piece
