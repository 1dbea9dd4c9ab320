"""What routes ask for by name: the service, the caller, the body, and the guards that every call passes."""

import difflib
import re
from fnmatch import fnmatchcase
from typing import Annotated, Any

from fastapi import Depends, Header, Query, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from app.openapi import query_parameters
from app.problem import NotAcceptable
from app.service import Service
from core.errors import BadRequest, NotFound, Unauthorized
from core.ids import is_id
from core.security import KEY_PREFIX, Caller

STEP_MAX = 2**53
"""Past this, JSON numbers are not exact in most clients."""
KEY_MAX_CHARACTERS = 200
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]([\x20-\x7e]{0,253}[\x21-\x7e])?")

bearer = HTTPBearer(auto_error=False, bearerFormat="ly_…", description="An API key of the service.")


# Guards are `async` though they wait for nothing: FastAPI would run each of them in a thread.


async def service(request: Request) -> Service:
    """The parts of this process."""
    parts: Service = request.app.state.service
    return parts


Parts = Annotated[Service, Depends(service)]


async def caller(parts: Parts, credentials: Annotated[HTTPAuthorizationCredentials | None, Security(bearer)]) -> Caller:
    """Who the request speaks for. Raises `Unauthorized`."""
    if credentials is None:
        raise Unauthorized("Send `Authorization: Bearer ly_…` with an API key of this service.")
    key = credentials.credentials
    if not key.startswith(KEY_PREFIX) or len(key) > KEY_MAX_CHARACTERS or not key.isascii():
        raise Unauthorized("This is no API key of this service: they begin with `ly_`.")
    return await parts.keys.caller(key)


async def only_known_parameters(request: Request) -> None:
    """Refuse query parameters that the call does not read: a typo is said, not ignored."""
    if not request.scope["query_string"]:
        return
    known = query_parameters(request.app)[request.scope["route"].path_format, request.method]
    for name, value in request.query_params.multi_items():
        if not any(fnmatchcase(name, one) for one in known):
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean {close[0]!r}?" if close else f"It reads {', '.join(known) or 'none'}."
            raise BadRequest(
                f"This call has no query parameter {name[:100]!r}. {hint}",
                code="unknown_parameter",
                parameter=name[:100],
            )
        if "\0" in value or "\0" in name:
            raise BadRequest(f"The value of {name[:100]!r} holds a NUL character.", code="bad_parameter")


async def acceptable(request: Request) -> None:
    """Refuse a request whose `Accept` (RFC 9110, 12.5.1) excludes what the call produces."""
    header = request.headers.get("accept", "")
    route = request.scope["route"]
    produced = getattr(route.response_class, "value", route.response_class).media_type or "application/json"
    if header.strip() and not accepts(header, produced):
        raise NotAcceptable(f"This call answers {produced}; the request's Accept leaves that out.")


GUARDS: list[Any] = [Depends(caller), Depends(acceptable), Depends(only_known_parameters)]
"""What every call but the health checks passes."""


async def body(request: Request) -> bytes:
    """The body as it came, within the limit that the middleware keeps."""
    return await request.body()


async def idempotency_key(
    key: Annotated[
        str | None,
        Header(alias="Idempotency-Key", description="1 to 255 printable ASCII characters; the answer is kept for it."),
    ] = None,
) -> str | None:
    """The key under which the answer of a creating call is kept."""
    if key is not None and not _IDEMPOTENCY_KEY.fullmatch(key):
        raise BadRequest("Idempotency-Key must be 1 to 255 printable ASCII characters.", code="bad_idempotency_key")
    return key


async def job_id(job_id: str) -> str:
    """The job's id in the path. Raises `NotFound` for what is no id: it names nothing."""
    if not is_id("job", job_id):
        raise NotFound(f"There is no job {job_id[:100]!r} here.", code="job_not_found")
    return job_id


async def checkpoint_id(checkpoint_id: str) -> str:
    """The checkpoint's id in the path. Raises `NotFound` for what is no id: it names nothing."""
    if not is_id("ckpt", checkpoint_id):
        raise NotFound(f"There is no checkpoint {checkpoint_id[:100]!r} here.", code="checkpoint_not_found")
    return checkpoint_id


CallerOf = Annotated[Caller, Depends(caller)]
Body = Annotated[bytes, Depends(body)]
IdempotencyKey = Annotated[str | None, Depends(idempotency_key)]
JobId = Annotated[str, Depends(job_id)]
CheckpointId = Annotated[str, Depends(checkpoint_id)]
PageLimit = Annotated[int, Query(ge=1, le=200, description="Most rows of the page.")]
Cursor = Annotated[str | None, Query(description="`next_cursor` of the page before.")]
Step = Annotated[int | None, Query(ge=0, le=STEP_MAX)]


def accepts(header: str, produced: str) -> bool:
    """Whether the most specific range of the header that covers the type has a weight."""
    weights: dict[str, float] = {}
    for part in header.split(","):
        media_range, *parameters = [piece.strip().lower() for piece in part.split(";")]
        weights[media_range] = _weight(parameters)
    kind, _, subtype = produced.partition("/")
    for media_range in (produced, f"{kind}/*", "*/*", "*"):
        if media_range in weights:
            return weights[media_range] > 0
    # A caller that accepts problem+json, or JSON by another name, takes JSON.
    return subtype == "json" and any(media_range.endswith("+json") for media_range in weights)


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 1.0
    return 1.0
