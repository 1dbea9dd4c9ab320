"""Making a job, at most once per idempotency key, and answering with it."""

from collections.abc import Callable

from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response

from app import etag
from app.problem import TooManyRequests
from app.schemas.jobs import JobOut
from app.schemas.resource import as_json
from app.service import Service
from core.idempotency import Answer
from core.job import NewJob
from core.security import Caller

QUEUE_FULL_RETRY_SECONDS = 30


def created(
    request: Request, parts: Service, caller: Caller, body: bytes, key: str | None, read: Callable[[], NewJob]
) -> Response:
    """The answer of a creating call: the one kept under its key, or a new job in one transaction with its answer.

    A kept answer comes before the body is validated, for the catalogue may have changed since.
    """
    fingerprint = _fingerprint(request, body)
    if key is not None and (kept := parts.idempotency.find(caller.key_id, key, fingerprint)) is not None:
        return _response(kept)
    new = read()
    if not parts.room.take(caller.project_id):
        raise TooManyRequests(
            f"{parts.config.queued_jobs_max_count} jobs of this project are queued, which is the most.",
            code="queue_full",
            headers={"Retry-After": str(QUEUE_FULL_RETRY_SECONDS)},
        )
    parts.doorbell.foretell(new)

    def create(connection: Connection) -> Answer:
        job = parts.jobs.create(connection, caller.project_id, new)
        waiting = parts.queue.waiting_in(connection, job, parts.config.worker_silence_seconds)
        shown = JobOut.of(job, caller.project, waiting)
        return Answer(status=201, location=f"/v1/jobs/{job.id}", body=as_json(shown))

    if key is None:
        with parts.database.write() as connection:
            made = create(connection)
    else:
        made = parts.idempotency.once(caller.key_id, key, fingerprint, create)
    if not made.replayed:
        parts.doorbell.ring(made.location.rpartition("/")[2], new.accelerator)
    return _response(made)


def _response(made: Answer) -> Response:
    # A job's first answer shows its first version, however old that answer is.
    tag = etag.of_version(made.location.rpartition("/")[2], 1)
    headers = {"Location": made.location, "ETag": tag}
    if made.replayed:
        headers["Idempotent-Replayed"] = "true"
    return Response(made.body, made.status, headers, "application/json")


def _fingerprint(request: Request, body: bytes) -> bytes:
    head = (request.method, request.scope["path"], request.headers.get("content-type", ""))
    # How long a caller waits for the answer makes no other request of it.
    query = b"&".join(part for part in request.scope["query_string"].split(b"&") if not part.startswith(b"wait="))
    return b"\n".join(("\n".join(head).encode(), query, body))
