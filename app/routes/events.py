"""Events of a job: a list, and a stream."""

from typing import Annotated

from fastapi import APIRouter, Header, Request, Response

from app import cursor as cursors
from app.deps import GUARDS, CallerOf, Cursor, JobId, PageLimit, Parts
from app.following import follow, resume_from
from app.routes.documented import problems
from app.schemas.jobs import EventOut
from app.schemas.resource import Page, answer
from app.stream import EventStream
from core.job import Mark

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["events"], dependencies=GUARDS)


@router.get("/events", response_model=Page[EventOut], summary="List a job's events", responses=problems())
def list_events(
    parts: Parts, caller: CallerOf, job_id: JobId, limit: PageLimit = 20, cursor: Cursor = None
) -> Response:
    """What happened to the job, oldest first."""
    parts.jobs.get(caller.project_id, job_id)
    listing = f"events {job_id}"
    after = cursors.decode(cursor, listing, int) if cursor is not None else 0
    limit = min(limit, parts.config.page_max_rows)
    rows = parts.events.after(job_id, after, limit + 1)
    shown, behind = cursors.cut(rows, limit, listing, lambda row: row.id)
    return answer(
        Page[EventOut](
            data=[EventOut.of(event) for event in shown],
            next_cursor=behind,
        )
    )


@router.get(
    "/events/stream", status_code=200, response_class=EventStream, summary="Stream a job's events", responses=problems()
)
async def stream_events(
    request: Request,
    parts: Parts,
    caller: CallerOf,
    job_id: JobId,
    last_event_id: Annotated[str | None, Header(description="Go on behind this event.")] = None,
) -> Response:
    """Server-sent events: `id` is the event's id, `event` its type; the last is `done`, after the job's end."""
    seen = resume_from(last_event_id)
    mark = await parts.reads.mark(caller, job_id)

    async def drain(_mark: Mark) -> tuple[bytes, bool]:
        nonlocal seen
        told = await parts.reads.told(job_id, seen)
        seen = told.last_id
        return told.text, told.more

    return follow(request, parts, caller, job_id, mark, drain)
