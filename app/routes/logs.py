"""The log of a job: what each of its ranks wrote to stdout and stderr, as text and as a stream."""

import codecs
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import PlainTextResponse

from app.deps import GUARDS, STEP_MAX, CallerOf, JobId, Parts
from app.following import follow, resume_from
from app.routes.documented import problems
from app.stream import EventStream, in_thread, message
from core.errors import BadRequest
from core.job import Job, Mark

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["logs"], dependencies=GUARDS)

TAIL_MAX_LINES = 100_000
UTF8_MAX_BYTES = 4
RANKS_NAMED = 8
_HEADERS: dict[int | str, dict[str, Any]] = {
    200: {
        "headers": {
            "X-Log-Offset": {"description": "Byte at which this text begins.", "schema": {"type": "integer"}},
            "X-Log-Next-Offset": {"description": "The `offset` to go on from.", "schema": {"type": "integer"}},
            "X-Log-Size": {"description": "Bytes of the log so far.", "schema": {"type": "integer"}},
        }
    }
}

Offset = Annotated[int | None, Query(ge=0, le=STEP_MAX, description="Byte to begin at.")]
Rank = Annotated[int, Query(ge=0, le=STEP_MAX, description="Whose log, of a job with several ranks.")]


def _question_marks(error: UnicodeError) -> tuple[str, int]:
    """One `?` for each byte that is no UTF-8, so that what is shown is as long as what was written."""
    assert isinstance(error, UnicodeDecodeError)
    return "?" * (error.end - error.start), error.end


codecs.register_error("lightyard_question_marks", _question_marks)


@router.get(
    "/logs",
    response_class=PlainTextResponse,
    summary="Read a job's log",
    responses={**problems(), **_HEADERS},
)
def read_log(
    parts: Parts,
    caller: CallerOf,
    job_id: JobId,
    offset: Offset = None,
    tail: Annotated[int | None, Query(ge=0, le=TAIL_MAX_LINES, description="The last so many lines.")] = None,
    rank: Rank = 0,
) -> Response:
    """The log from a byte on, or its last lines; at most a mebibyte in one answer. The body is as many bytes long
    as it moves the offset; bytes that are no UTF-8 are shown as `?`, and no character is cut in two.
    """
    if offset is not None and tail is not None:
        raise BadRequest("Give `offset` or `tail`, not both.", code="bad_parameter")
    job = parts.jobs.get(caller.project_id, job_id)
    _check_rank(job, rank)
    most = parts.config.log_answer_max_bytes
    span = parts.logs.read(job_id, -most if tail is not None else offset or 0, most, rank=rank)
    start = min(span.offset, span.size_bytes)
    data = span.data
    if tail is not None:
        skipped = _start_of_lines(data, tail, is_whole=start == 0)
        start, data = start + skipped, data[skipped:]
    text = _whole_characters(data, is_end=job.is_final and start + len(data) == span.size_bytes)
    body = text.encode()
    return PlainTextResponse(
        body,
        headers={
            "X-Log-Offset": str(start),
            "X-Log-Next-Offset": str(start + len(body)),
            "X-Log-Size": str(span.size_bytes),
            "X-Content-Type-Options": "nosniff",
        },
    )


@router.get(
    "/logs/stream", status_code=200, response_class=EventStream, summary="Stream a job's log", responses=problems()
)
async def stream_log(
    request: Request,
    parts: Parts,
    caller: CallerOf,
    job_id: JobId,
    offset: Offset = None,
    rank: Rank = 0,
    last_event_id: Annotated[str | None, Header(description="Byte to go on from.")] = None,
) -> Response:
    """Server-sent events `log` with `{offset, text}`, whose `id` is the byte behind the text; the last is `done`."""
    at = (offset or 0) if last_event_id is None else resume_from(last_event_id)
    mark = await parts.reads.mark(caller, job_id)
    _check_rank(await in_thread(parts.jobs.get, caller.project_id, job_id), rank)

    def read(is_final: bool) -> bytes:
        nonlocal at
        span = parts.logs.read(job_id, at, parts.config.log_answer_max_bytes, rank=rank)
        text = _whole_characters(span.data, is_end=is_final and at + len(span.data) >= span.size_bytes)
        if not text:
            return b""
        began = at
        at += len(text.encode())
        return message("log", {"offset": began, "text": text}, str(at))

    async def drain(mark: Mark) -> tuple[bytes, bool]:
        told = await in_thread(read, mark.is_final)
        return told, bool(told)

    return follow(request, parts, caller, job_id, mark, drain)


def _check_rank(job: Job, rank: int) -> None:
    count = job.nodes * job.devices
    if rank >= count:
        raise BadRequest(
            f"There is no rank {rank}: the ranks of {job.id} are {', '.join(map(str, range(min(count, RANKS_NAMED))))}"
            f"{' …' if count > RANKS_NAMED else ''}.",
            code="bad_parameter",
        )


def _start_of_lines(data: bytes, lines: int, *, is_whole: bool) -> int:
    """Where the last lines of `data` begin; a line cut off at its beginning is left out."""
    if lines == 0:
        return len(data)
    at = len(data) - 1 if data.endswith(b"\n") else len(data)
    for _ in range(lines):
        at = data.rfind(b"\n", 0, at)
        if at < 0:
            return 0 if is_whole else data.find(b"\n") + 1
    return at + 1


def _whole_characters(data: bytes, *, is_end: bool) -> str:
    """The text, without a last character whose other bytes are still to come."""
    decoder = codecs.getincrementaldecoder("utf-8")("lightyard_question_marks")
    return decoder.decode(data, final=is_end)
