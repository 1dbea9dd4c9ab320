"""Checkpoints of jobs, and their files."""

from pathlib import PurePosixPath
from typing import Any, Literal

from fastapi import APIRouter, Request, Response

from app import cursor as cursors
from app.content import OctetStream, content, respond
from app.deps import GUARDS, Body, CallerOf, CheckpointId, Cursor, JobId, PageLimit, Parts
from app.request_bodies import PIN
from app.routes.documented import BODY, problems
from app.schemas.resource import Page, answer
from app.schemas.results import CheckpointOut
from app.stream import in_thread
from app.submission import read_json
from app.weights import tag
from core.checkpoints import Checkpoint
from core.errors import Fault, Invalid, NotFound
from core.values import escape

router = APIRouter(prefix="/v1", tags=["checkpoints"], dependencies=GUARDS)

FILE: dict[int | str, dict[str, Any]] = {
    206: {"description": "The range asked for", "content": {"application/octet-stream": {}}},
}


@router.get(
    "/jobs/{job_id}/checkpoints",
    response_model=Page[CheckpointOut],
    summary="List a job's checkpoints",
    responses=problems(),
)
def list_checkpoints(
    parts: Parts, caller: CallerOf, job_id: JobId, limit: PageLimit = 20, cursor: Cursor = None
) -> Response:
    """Newest first."""
    parts.jobs.get(caller.project_id, job_id)
    listing = f"checkpoints {job_id}"
    after = cursors.decode(cursor, listing, str) if cursor is not None else None
    limit = min(limit, parts.config.page_max_rows)
    rows = parts.checkpoints.page(caller.project_id, job_id, after_id=after, limit=limit + 1)
    shown, behind = cursors.cut(rows, limit, listing, lambda row: row.id)
    return answer(
        Page[CheckpointOut](
            data=[CheckpointOut.of(row) for row in shown],
            next_cursor=behind,
        )
    )


@router.get(
    "/jobs/{job_id}/checkpoints/best",
    response_model=CheckpointOut,
    summary="A job's best checkpoint",
    responses=problems(),
)
def best(parts: Parts, caller: CallerOf, job_id: JobId) -> Response:
    """The best by the monitor of its ModelCheckpoint, so far."""
    return _pointed(parts, caller, job_id, "best")


@router.get(
    "/jobs/{job_id}/checkpoints/last",
    response_model=CheckpointOut,
    summary="A job's last checkpoint",
    responses=problems(),
)
def last(parts: Parts, caller: CallerOf, job_id: JobId) -> Response:
    """The newest, so far."""
    return _pointed(parts, caller, job_id, "last")


@router.get(
    "/checkpoints/{checkpoint_id}/content",
    response_class=OctetStream,
    summary="Download a checkpoint",
    responses={**problems(304, 412, 416), **FILE},
)
def download(request: Request, parts: Parts, caller: CallerOf, checkpoint_id: CheckpointId) -> Response:
    """The file. Takes `Range`, `If-Range` and `If-None-Match`; `ETag` is its sha256."""
    checkpoint = parts.checkpoints.get(caller.project_id, checkpoint_id)
    return content(
        request,
        parts.store,
        checkpoint.storage_key,
        sha256=checkpoint.sha256,
        size_bytes=checkpoint.size_bytes,
        media_type="application/octet-stream",
        filename=f"{_stem(checkpoint)}.ckpt",
    )


@router.get(
    "/checkpoints/{checkpoint_id}/weights",
    response_class=OctetStream,
    summary="Download a checkpoint's weights as safetensors",
    responses={**problems(304, 412, 416, 422), **FILE},
)
async def weights(request: Request, parts: Parts, caller: CallerOf, checkpoint_id: CheckpointId) -> Response:
    """The tensors of its `state_dict` by name, in a file that no reader has to run code for.

    It is made while it is sent, and the same bytes each time. Takes what the checkpoint's own download takes.
    """
    checkpoint = await in_thread(parts.checkpoints.get, caller.project_id, checkpoint_id)
    found, sha256 = await parts.exports.open(checkpoint)
    return respond(
        request,
        found,
        tag=tag(checkpoint),
        sha256=sha256,
        size_bytes=found.export.size_bytes,
        media_type="application/octet-stream",
        filename=f"{_stem(checkpoint)}.safetensors",
    )


@router.patch(
    "/checkpoints/{checkpoint_id}",
    response_model=CheckpointOut,
    summary="Pin a checkpoint, or unpin it",
    responses=problems(*BODY),
    openapi_extra=PIN,
)
def pin(request: Request, parts: Parts, caller: CallerOf, checkpoint_id: CheckpointId, body: Body) -> Response:
    """A pinned checkpoint is kept whatever its run decides, and cannot be deleted."""
    asked = read_json(parts, body, request.headers.get("content-type"))
    if not isinstance(asked, dict):
        raise Invalid("The body must be an object.", [Fault("", "wrong_type", "Expected an object.")])
    faults = [
        Fault(f"/{escape(key)}", "unknown_field", "Only `pinned` can be changed.") for key in asked if key != "pinned"
    ]
    if not isinstance(asked.get("pinned"), bool):
        code = "wrong_type" if "pinned" in asked else "missing"
        faults.append(Fault("/pinned", code, "pinned is needed: true or false."))
    if faults:
        raise Invalid("The change is wrong.", faults)
    return answer(CheckpointOut.of(parts.checkpoints.pin(caller.project_id, checkpoint_id, pinned=asked["pinned"])))


@router.delete("/checkpoints/{checkpoint_id}", status_code=204, summary="Delete a checkpoint", responses=problems(409))
def delete(parts: Parts, caller: CallerOf, checkpoint_id: CheckpointId) -> Response:
    """The file goes first, its row last. A download that is on its way still gets all of it."""
    parts.checkpoints.delete(caller.project_id, checkpoint_id, parts.store)
    return Response(status_code=204)


def _stem(checkpoint: Checkpoint) -> str:
    return PurePosixPath(checkpoint.name).name.removesuffix(".ckpt")


def _pointed(parts: Parts, caller: CallerOf, job_id: str, which: Literal["best", "last"]) -> Response:
    job = parts.jobs.get(caller.project_id, job_id)
    found = job.best_checkpoint_id if which == "best" else job.last_checkpoint_id
    if found is None:
        more = "and will save none any more" if job.is_final else "yet"
        raise NotFound(f"{job_id} is {job.status} and has no {which} checkpoint {more}.", code="no_checkpoint_yet")
    return answer(CheckpointOut.of(parts.checkpoints.get(caller.project_id, found)))
