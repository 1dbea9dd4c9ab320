"""Dry runs: what trying one batch of everything found. They are made by `POST /v1/jobs?dry_run=true`."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from app.deps import GUARDS, CallerOf, JobId, Parts
from app.dry_run import found
from app.routes.documented import problems
from app.schemas.dry_runs import DryRunOut

router = APIRouter(prefix="/v1/jobs/{job_id}/dry_run", tags=["jobs"], dependencies=GUARDS)

NOT_YET: dict[int | str, dict[str, Any]] = {
    202: {"model": DryRunOut, "description": "It has not ended yet; `waiting` says what a queued one waits for."}
}


@router.get("", response_model=DryRunOut, summary="Read what a dry run found", responses={**problems(), **NOT_YET})
async def read(
    request: Request,
    parts: Parts,
    caller: CallerOf,
    job_id: JobId,
    wait: Annotated[float, Query(ge=0, le=60, description="Seconds to wait for its end.")] = 0.0,
) -> Response:
    """200 once it has ended, 202 until then."""
    return await found(request, parts, caller, job_id, wait)
