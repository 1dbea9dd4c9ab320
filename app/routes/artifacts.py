"""What else a run left: the resolved config, a profiler's report, predictions."""

from fastapi import APIRouter, Request, Response

from app import cursor as cursors
from app.content import OctetStream, content
from app.deps import GUARDS, CallerOf, Cursor, JobId, PageLimit, Parts
from app.routes.checkpoints import FILE
from app.routes.documented import problems
from app.schemas.resource import Page, answer
from app.schemas.results import ArtifactOut
from core.errors import NotFound

router = APIRouter(prefix="/v1/jobs/{job_id}/artifacts", tags=["artifacts"], dependencies=GUARDS)


@router.get("", response_model=Page[ArtifactOut], summary="List a job's artifacts", responses=problems())
def list_artifacts(
    parts: Parts, caller: CallerOf, job_id: JobId, limit: PageLimit = 20, cursor: Cursor = None
) -> Response:
    """By name."""
    parts.jobs.get(caller.project_id, job_id)
    listing = f"artifacts {job_id}"
    after = cursors.decode(cursor, listing, str) if cursor is not None else None
    limit = min(limit, parts.config.page_max_rows)
    rows = parts.artifacts.page(job_id, after_name=after, limit=limit + 1)
    shown, behind = cursors.cut(rows, limit, listing, lambda row: row.name)
    return answer(
        Page[ArtifactOut](
            data=[ArtifactOut.of(row) for row in shown],
            next_cursor=behind,
        )
    )


@router.get(
    "/{name:path}",
    response_class=OctetStream,
    summary="Download an artifact",
    responses={**problems(304, 412, 416), **FILE},
)
def download(request: Request, parts: Parts, caller: CallerOf, job_id: JobId, name: str) -> Response:
    """The file, as it is with checkpoints."""
    parts.jobs.get(caller.project_id, job_id)
    if "\0" in name:
        raise NotFound(f"{job_id} has no artifact of that name.", code="artifact_not_found")
    artifact = parts.artifacts.get(job_id, name)
    return content(
        request,
        parts.store,
        artifact.storage_key,
        sha256=artifact.sha256,
        size_bytes=artifact.size_bytes,
        media_type=artifact.media_type,
        filename=artifact.name.rpartition("/")[2],
    )
