"""Workers that are up, and the queue they work off."""

from fastapi import APIRouter, Response

from app import cursor as cursors
from app.deps import GUARDS, CallerOf, Cursor, PageLimit, Parts
from app.routes.documented import problems
from app.schemas.fleet import QueuedOut, WorkerOut
from app.schemas.resource import Page, answer
from core.errors import BadRequest
from core.ids import is_id

PRIORITY_MAX = 100

router = APIRouter(prefix="/v1", tags=["fleet"], dependencies=GUARDS)


@router.get("/workers", response_model=Page[WorkerOut], summary="List workers", responses=problems())
def list_workers(parts: Parts, caller: CallerOf, limit: PageLimit = 20, cursor: Cursor = None) -> Response:
    """Who is up, on what devices, doing what; newest first. One that went silent is `offline`."""
    after = cursors.decode(cursor, "workers", str) if cursor is not None else None
    limit = min(limit, parts.config.page_max_rows)
    rows = parts.fleet.page(parts.config.worker_silence_seconds, after_id=after, limit=limit + 1)
    shown, behind = cursors.cut(rows, limit, "workers", lambda row: row.id)
    own = parts.jobs.owned(caller.project_id, [job_id for worker in shown for job_id in worker.busy.values()])
    return answer(
        Page[WorkerOut](
            data=[WorkerOut.of(worker, own) for worker in shown],
            next_cursor=behind,
        )
    )


@router.get("/queue", response_model=Page[QueuedOut], summary="List what waits", responses=problems())
def list_queue(parts: Parts, caller: CallerOf, limit: PageLimit = 20, cursor: Cursor = None) -> Response:
    """The caller's queued jobs in the order in which they are due, and what each waits for.

    Between jobs of the same priority, a project with fewer running jobs goes first.
    """
    listing = f"queue {caller.project_id}"
    after = _place(cursors.decode(cursor, listing, list)) if cursor is not None else None
    limit = min(limit, parts.config.page_max_rows)
    rows = parts.queue.queue(caller.project_id, limit + 1, after=after)
    shown, behind = cursors.cut(rows, limit, listing, lambda row: [row.priority, row.id])
    waiting = parts.queue.waiting_of(shown, parts.config.worker_silence_seconds)
    return answer(
        Page[QueuedOut](
            data=[QueuedOut.of(job, waiting[job.id]) for job in shown],
            next_cursor=behind,
        )
    )


def _place(after: list[object]) -> tuple[int, str]:
    match after:
        case [int(priority), str(job_id)] if abs(priority) <= PRIORITY_MAX and is_id("job", job_id):
            return priority, job_id
    raise BadRequest("This cursor is not one of the queue.", code="bad_cursor")
