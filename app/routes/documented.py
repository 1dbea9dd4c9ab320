"""The error answers that the OpenAPI document names for each call."""

from typing import Any

from app.problem import MEDIA_TYPE
from app.schemas.resource import ProblemOut

_WORDS = {
    304: "Not modified since `If-None-Match`",
    400: "The request cannot be read: syntax, cursor or query",
    401: "No valid API key",
    404: "Not here",
    406: "`Accept` leaves out what this call answers",
    408: "The body did not arrive in time",
    409: "The state it is in does not allow this",
    410: "It is gone for good",
    412: "`If-Match` names an old version",
    413: "The body is too large",
    415: "The body's `Content-Type` is not read here",
    416: "The range lies outside the file",
    422: "The body is wrong; `errors` has every fault",
    428: "`If-Match` is needed",
    429: "A limit is reached; see `Retry-After`",
    503: "A part is away; see `Retry-After`",
}
BODY = (408, 413, 415, 422)
"""What any call that reads a body may answer."""


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The documentation of these statuses, and of those that any guarded call may answer."""
    schema = {"$ref": f"#/components/schemas/{ProblemOut.__name__}"}
    return {
        status: {"description": _WORDS[status]}
        | ({} if status == 304 else {"content": {MEDIA_TYPE: {"schema": schema}}})
        for status in sorted({400, 401, 404, 406, 503, *statuses})
    }
