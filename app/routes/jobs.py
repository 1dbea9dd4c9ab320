"""Jobs: submitting, listing, reading, changing and ending them."""

from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response

from app import cursor as cursors
from app import etag
from app.creation import created
from app.deps import GUARDS, Body, CallerOf, Cursor, IdempotencyKey, JobId, PageLimit, Parts
from app.dry_run import as_dry_run, refuse_retry, tried
from app.poll import answered
from app.request_bodies import CHANGE, OVERRIDES, SUBMISSION
from app.routes.documented import BODY, problems
from app.routes.dry_runs import NOT_YET
from app.schemas.dry_runs import DryRunOut
from app.schemas.jobs import JobOut, ValidationOut
from app.schemas.resource import Page, answer
from app.service import Service
from app.stream import in_thread
from app.submission import changes_in, new_job, overridden, validated
from core.errors import BadRequest, PreconditionFailed, PreconditionRequired, Unavailable
from core.job import Job, NewJob
from core.jobs import invalid_transition
from core.security import Caller
from core.states import Status
from core.storage import job_prefix

router = APIRouter(prefix="/v1", tags=["jobs"], dependencies=GUARDS)

LABEL_FILTERS_MAX = 10
"""Each is a look into an index."""
_LABEL_PARAMETER = {
    "parameters": [
        {
            "name": "label.*",
            "in": "query",
            "description": "`label.team=vision` lists the jobs whose label `team` is `vision`; may be given for "
            f"up to {LABEL_FILTERS_MAX} labels, which must all match.",
            "schema": {"type": "string"},
        }
    ]
}


@router.post(
    "/jobs",
    status_code=201,
    response_model=JobOut,
    summary="Submit a job",
    responses={**problems(*BODY, 429), 200: {"model": DryRunOut, "description": "What a dry run found."}, **NOT_YET},
    openapi_extra=SUBMISSION,
)
async def submit(
    request: Request,
    parts: Parts,
    caller: CallerOf,
    body: Body,
    key: IdempotencyKey,
    dry_run: Annotated[
        bool, Query(description="Try one batch of everything on a worker, ahead of the queue, and tell what was found.")
    ] = False,
    wait: Annotated[float, Query(ge=0, le=60, description="Seconds to wait for a dry run's end.")] = 60.0,
) -> Response:
    """Takes a job spec, or a plain LightningCLI config, as JSON or YAML; answers with the queued job."""
    content_type = request.headers.get("content-type")

    def read() -> NewJob:
        new = new_job(parts, caller.project_id, body, content_type)
        return as_dry_run(new, parts.config) if dry_run else new

    if dry_run:
        parts.hub.check_room()
    made = await in_thread(created, request, parts, caller, body, key, read)
    return await tried(request, parts, caller, made, wait) if dry_run else made


@router.post(
    "/jobs:validate",
    response_model=ValidationOut,
    summary="Say what is wrong with a job",
    responses=problems(*BODY),
    openapi_extra=SUBMISSION,
)
def validate(request: Request, parts: Parts, caller: CallerOf, body: Body) -> Response:
    """Creates nothing. `config` is the config with every default filled in, where there is no fault."""
    return answer(validated(parts, caller.project_id, body, request.headers.get("content-type")))


@router.get(
    "/jobs",
    response_model=Page[JobOut],
    summary="List jobs",
    responses=problems(),
    openapi_extra=_LABEL_PARAMETER,
)
def list_jobs(
    request: Request,
    parts: Parts,
    caller: CallerOf,
    status: Annotated[list[str] | None, Query(description="One or several, repeated or with commas.")] = None,
    name: Annotated[str | None, Query(description="The exact name.")] = None,
    sort: Annotated[str, Query(description="`-created_at`, newest first, or `created_at`.")] = "-created_at",
    dry_run: Annotated[bool, Query(description="The dry runs, which are left out otherwise.")] = False,
    limit: PageLimit = 20,
    cursor: Cursor = None,
) -> Response:
    """One page of the caller's jobs."""
    statuses = _statuses(status or [])
    labels = _labels(request)
    if sort not in ("created_at", "-created_at"):
        raise BadRequest(f"sort is {sort[:50]!r}: jobs are sorted by created_at or -created_at.", code="bad_parameter")
    listing = f"jobs {caller.project_id} {statuses} {name!r} {sorted(labels.items())} {sort} {dry_run}"
    limit = min(limit, parts.config.page_max_rows)
    rows = parts.jobs.page(
        caller.project_id,
        statuses=statuses,
        name=name,
        labels=labels,
        oldest_first=sort == "created_at",
        dry_run=dry_run,
        after_id=cursors.decode(cursor, listing, str) if cursor is not None else None,
        limit=limit + 1,
    )
    shown, behind = cursors.cut(rows, limit, listing, lambda row: row.id)
    queued = [job for job in shown if job.status is Status.QUEUED]
    waiting = parts.queue.waiting_of(queued, parts.config.worker_silence_seconds)
    return answer(
        Page[JobOut](
            data=[JobOut.of(job, caller.project, waiting.get(job.id)) for job in shown],
            next_cursor=behind,
        )
    )


@router.get("/jobs/{job_id}", response_model=JobOut, summary="Read a job", responses=problems(304))
async def read(
    request: Request,
    parts: Parts,
    caller: CallerOf,
    job_id: JobId,
    wait: Annotated[
        float | None,
        Query(ge=0, le=60, description="Seconds to wait for a version other than the one in `If-None-Match`."),
    ] = None,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """The job, or 304 where `If-None-Match` names its version; with `wait`, as soon as it has another."""
    return await answered(request, parts, caller, job_id, wait or 0.0, if_none_match)


READ = router.routes[-1]


@router.patch(
    "/jobs/{job_id}",
    response_model=JobOut,
    summary="Change a job",
    responses=problems(*BODY, 409, 412, 428),
    openapi_extra=CHANGE,
)
def change(
    request: Request,
    parts: Parts,
    caller: CallerOf,
    job_id: JobId,
    body: Body,
    if_match: Annotated[str | None, Header(description="The job's `ETag`, or `*`.")] = None,
) -> Response:
    """Changes name, labels, priority or limits. A job that has ended keeps its priority and limits."""
    job = parts.jobs.get(caller.project_id, job_id)
    if if_match is None:
        raise PreconditionRequired(
            "Send `If-Match` with the `ETag` of the job as you read it, so that no other change is overwritten."
        )
    if not etag.matches_strongly(if_match, _tag(job)):
        raise PreconditionFailed(
            f"{job_id} has changed since: its ETag is {_tag(job)}. Read it again, then repeat the change.",
        )
    changes = changes_in(parts, body, request.headers.get("content-type"))
    if job.is_final and not changes.keys() <= {"name", "labels"}:
        raise invalid_transition(job, "change its priority or limits")
    expected = None if if_match.strip() == "*" else job.version
    return _shown(parts, caller, parts.jobs.patch(caller.project_id, job_id, expected, changes))


@router.delete("/jobs/{job_id}", status_code=204, summary="Delete a job", responses=problems(409))
def delete(parts: Parts, caller: CallerOf, job_id: JobId) -> Response:
    """Deletes a job that has ended, with its checkpoints and all else it left."""

    def remove_files(gone: str) -> None:
        try:
            parts.store.delete_all(job_prefix(gone))
        except OSError as error:
            raise Unavailable("The store of files is away: try again later.", code="store_unavailable") from error

    parts.jobs.delete(caller.project_id, job_id, remove_files)
    return Response(status_code=204)


@router.post(
    "/jobs/{job_id}/cancel", status_code=202, response_model=JobOut, summary="Cancel a job", responses=problems(409)
)
def cancel(
    parts: Parts,
    caller: CallerOf,
    job_id: JobId,
    force: Annotated[bool, Query(description="Kill the trainer instead of stopping between two steps.")] = False,
) -> Response:
    """A queued job is cancelled at once; a running one stops between two steps and saves a checkpoint first."""
    return _shown(parts, caller, parts.jobs.cancel(caller.project_id, job_id, force=force), status=202)


@router.post(
    "/jobs/{job_id}/pause", status_code=202, response_model=JobOut, summary="Pause a job", responses=problems(409)
)
def pause(parts: Parts, caller: CallerOf, job_id: JobId) -> Response:
    """A running job stops between two steps, saves where it is and frees its devices; a queued one leaves the queue."""
    return _shown(parts, caller, parts.jobs.pause(caller.project_id, job_id), status=202)


@router.post(
    "/jobs/{job_id}/resume", status_code=202, response_model=JobOut, summary="Resume a job", responses=problems(409)
)
def resume(parts: Parts, caller: CallerOf, job_id: JobId) -> Response:
    """A paused job goes back to the queue, and on from where it stopped; a request to pause is taken back."""
    job = parts.jobs.resume(caller.project_id, job_id)
    if job.status is Status.QUEUED:
        parts.doorbell.ring(job.id, job.accelerator)
    return _shown(parts, caller, job, status=202)


@router.post(
    "/jobs/{job_id}/checkpoints",
    status_code=202,
    response_model=JobOut,
    summary="Save a checkpoint now",
    responses=problems(409),
)
def save_now(parts: Parts, caller: CallerOf, job_id: JobId) -> Response:
    """A running job saves a checkpoint between two steps and goes on; `checkpoint_requested_at` is set until it has."""
    return _shown(parts, caller, parts.jobs.request_checkpoint(caller.project_id, job_id), status=202)


@router.post(
    "/jobs/{job_id}/retry",
    status_code=201,
    response_model=JobOut,
    summary="Run a job again",
    responses=problems(*BODY, 409, 429),
    openapi_extra=OVERRIDES,
)
def retry(
    request: Request,
    parts: Parts,
    caller: CallerOf,
    job_id: JobId,
    body: Body,
    key: IdempotencyKey,
    start: Annotated[
        str | None,
        Query(alias="from", description="Go on from a checkpoint: `last` or `best` of that job, or one by its id."),
    ] = None,
) -> Response:
    """A new job with the config of one that has ended; `config` in the body is merged into it.

    With `from` it goes on from there as by Lightning's `ckpt_path`, else it trains from the beginning.
    """
    parent = parts.jobs.get(caller.project_id, job_id)
    refuse_retry(parent)
    content_type = request.headers.get("content-type")

    def read() -> NewJob:
        if not parent.is_final:
            raise invalid_transition(parent, "be retried")
        return overridden(parts, parent, body, content_type, start)

    return created(request, parts, caller, body, key, read)


def _shown(parts: Service, caller: Caller, job: Job, *, status: int = 200) -> Response:
    waiting = parts.queue.waiting(job, parts.config.worker_silence_seconds) if job.status is Status.QUEUED else None
    return answer(JobOut.of(job, caller.project, waiting), status, {"ETag": _tag(job)})


def _tag(job: Job) -> str:
    return etag.of_version(job.id, job.version)


def _statuses(given: list[str]) -> list[str]:
    names = sorted({name.strip() for value in given for name in value.split(",")})
    known = [status.value for status in Status]
    for name in names:
        if name not in known:
            raise BadRequest(f"status is {name[:50]!r}: it is one of {', '.join(known)}.", code="bad_parameter")
    return names


def _labels(request: Request) -> dict[str, str]:
    labels = {
        name.removeprefix("label."): value
        for name, value in request.query_params.multi_items()
        if name.startswith("label.")
    }
    if len(labels) > LABEL_FILTERS_MAX:
        raise BadRequest(f"At most {LABEL_FILTERS_MAX} labels are filtered by at once.", code="bad_parameter")
    return labels
