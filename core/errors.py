"""Every failure that Lightyard tells a caller about: what happened, to what, and what to do next."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with a body a caller sent.

    `pointer` is an RFC 6901 JSON pointer into that body ("" is the whole of it), `code` a stable snake_case word
    and `message` a sentence that says what is wrong and what to do.
    """

    pointer: str
    code: str
    message: str


class LightyardError(Exception):
    """A refusal with a stable code and an HTTP status; `app.problem` turns it into problem+json (RFC 9457)."""

    status: ClassVar[int] = 500
    code: str = "internal_error"
    title: ClassVar[str] = "Internal error"

    def __init__(self, detail: str, *, code: str | None = None, **extra: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        if code is not None:
            self.code = code
        self.extra: dict[str, Any] = extra
        """Further members of the problem body, and `headers` for the response."""


class BadRequest(LightyardError):
    """The request itself cannot be read: its syntax, a cursor, a query value."""

    status = 400
    code = "bad_request"
    title = "Bad request"


class Unauthorized(LightyardError):
    """No valid API key came with the request."""

    status = 401
    code = "unauthorized"
    title = "Unauthorized"


class NotFound(LightyardError):
    """There is no such thing, or it belongs to another project: the two look alike on purpose."""

    status = 404
    code = "not_found"
    title = "Not found"


class Conflict(LightyardError):
    """The thing is in a state in which this cannot be done."""

    status = 409
    code = "conflict"
    title = "Conflict"


class PreconditionFailed(LightyardError):
    """The caller's `If-Match` names a version that is no longer the newest."""

    status = 412
    code = "precondition_failed"
    title = "Precondition failed"


class BodyTooLarge(LightyardError):
    """The body is larger than the limit, in bytes or in nodes."""

    status = 413
    code = "body_too_large"
    title = "Content too large"


class UnsupportedMediaType(LightyardError):
    """The body's `Content-Type` is not one that this call reads."""

    status = 415
    code = "unsupported_media_type"
    title = "Unsupported media type"


class RangeNotSatisfiable(LightyardError):
    """The `Range` asked for lies outside the file."""

    status = 416
    code = "range_not_satisfiable"
    title = "Range not satisfiable"


class Invalid(LightyardError):
    """The body was read and is wrong; `faults` are all that was found, not the first alone."""

    status = 422
    code = "invalid_request"
    title = "Invalid request"

    def __init__(self, detail: str, faults: Sequence[Fault] = (), *, code: str | None = None, **extra: Any) -> None:
        super().__init__(detail, code=code, **extra)
        self.faults = tuple(faults)


class PreconditionRequired(LightyardError):
    """A change must say which version it changes."""

    status = 428
    code = "precondition_required"
    title = "Precondition required"


class Unavailable(LightyardError):
    """A part that this call needs is away; the same call works once it is back."""

    status = 503
    code = "unavailable"
    title = "Service unavailable"

    def __init__(self, detail: str, *, code: str | None = None, retry_after_seconds: int = 2, **extra: Any) -> None:
        super().__init__(detail, code=code, **extra)
        self.retry_after_seconds = retry_after_seconds


class LeaseLost(Exception):
    """A write bore a fencing token that is no longer the attempt's: stop, and kill the trainer."""
