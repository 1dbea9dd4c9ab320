"""Errors as problem+json (RFC 9457): whatever goes wrong leaves the process in this one shape."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core.errors import Fault, Invalid, LightyardError, Unavailable

MEDIA_TYPE = "application/problem+json"
DATABASE_RETRY_SECONDS = 2

log = structlog.get_logger("lightyard.api")


class RequestTimeout(LightyardError):
    """The body did not arrive in time."""

    status = 408
    code = "request_timeout"
    title = "Request timeout"


class NotAcceptable(LightyardError):
    """The caller accepts nothing that this call produces."""

    status = 406
    code = "not_acceptable"
    title = "Not acceptable"


class TooManyRequests(LightyardError):
    """A limit of the caller's is reached; the same call works later."""

    status = 429
    code = "too_many_requests"
    title = "Too many requests"


def problem(
    scope: Scope,
    status: int,
    code: str,
    title: str,
    detail: str,
    *,
    faults: Sequence[Fault] = (),
    extra: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """One error as a response. `extra` are further members of the body."""
    body: dict[str, Any] = {
        "type": f"urn:lightyard:problem:{code}",
        "title": title,
        "status": status,
        "detail": detail,
        "instance": scope.get("path", ""),
        "code": code,
        "request_id": scope.get("state", {}).get("request_id"),
        **(extra or {}),
    }
    if faults:
        body["errors"] = [{"pointer": fault.pointer, "code": fault.code, "message": fault.message} for fault in faults]
    return Response(orjson.dumps(body, default=str), status, {**(headers or {})}, MEDIA_TYPE)


def refusal(scope: Scope, error: LightyardError) -> Response:
    """The response of an error that says itself what it is."""
    extra = dict(error.extra)
    headers = dict(extra.pop("headers", {}))
    if "status" in extra:  # the problem's own `status` is the response's (RFC 9457, 3.1.2)
        extra["job_status"] = extra.pop("status")
    if error.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="lightyard"'
    if isinstance(error, Unavailable):
        headers["Retry-After"] = str(error.retry_after_seconds)
    faults = error.faults if isinstance(error, Invalid) else ()
    return problem(
        scope, error.status, error.code, error.title, error.detail, faults=faults, extra=extra, headers=headers
    )


def install(app: FastAPI) -> None:
    """Have every error that a route or the router raises answered as a problem."""
    app.add_exception_handler(LightyardError, _refused)
    app.add_exception_handler(RequestValidationError, _bad_parameters)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(PoolTimeout, database_failed)
    app.add_exception_handler(DBAPIError, database_failed)
    app.add_exception_handler(ClientDisconnect, _hung_up)


class CatchAll:
    """ASGI: an error that nobody foresaw becomes a 500 that tells the caller a request id and nothing else."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except LightyardError as error:
            if started:
                raise
            await refusal(scope, error)(scope, receive, send)
        except Exception:
            log.exception("request_failed", method=scope["method"], path=scope["path"])
            if started:  # the connection is cut, so that the caller sees that the answer is not whole
                raise
            detail = "Something went wrong that should not have. The log has it under this request_id."
            await problem(scope, 500, "internal_error", "Internal error", detail)(scope, receive, send)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, LightyardError)
    return refusal(request.scope, error)


async def _bad_parameters(request: Request, error: Exception) -> Response:
    """A query, path or header value of the wrong form. Bodies are never FastAPI's to read here."""
    assert isinstance(error, RequestValidationError)
    found = [{"name": str(one["loc"][-1]), "message": str(one["msg"])} for one in error.errors()]
    told = "; ".join(f"{one['name']}: {one['message']}" for one in found)
    return problem(request.scope, 400, "bad_parameter", "Bad request", told, extra={"parameters": found})


async def _http(request: Request, error: Exception) -> Response:
    """What Starlette's router raises: no such path, or not by this method."""
    assert isinstance(error, HTTPException)
    method, path = request.method, request.scope["path"]
    if error.status_code == 405:
        allow = ", ".join(sorted(_methods(request)))
        detail = f"{method} is not for {path}: allowed are {allow}."
        return problem(request.scope, 405, "method_not_allowed", "Method not allowed", detail, headers={"Allow": allow})
    if error.status_code == 404:
        return problem(request.scope, 404, "route_not_found", "Not found", f"There is no call at {path}.")
    return problem(
        request.scope,
        error.status_code,
        f"http_{error.status_code}",
        "Refused",
        str(error.detail),
        headers=error.headers,
    )


def _database_away(request: Request, error: Exception) -> Response:
    log.warning("database_unavailable", error=str(error).partition("\n")[0])
    detail = "The database cannot be reached at the moment. Try again shortly."
    away = Unavailable(detail, code="database_unavailable", retry_after_seconds=DATABASE_RETRY_SECONDS)
    return refusal(request.scope, away)


async def database_failed(request: Request, error: Exception) -> Response:
    """The answer where the database is away. Raises an error that is none of that kind.

    A driver may report a lost connection as something else than an `OperationalError`; SQLAlchemy still knows.
    """
    assert isinstance(error, DBAPIError | PoolTimeout)
    if isinstance(error, OperationalError | PoolTimeout) or error.connection_invalidated:
        return _database_away(request, error)
    raise error


async def _hung_up(request: Request, error: Exception) -> Response:
    """The caller left while sending. Nothing was done, and nobody reads this."""
    return problem(request.scope, 400, "incomplete_body", "Bad request", "The body broke off.")


def _methods(request: Request) -> set[str]:
    found: set[str] = set()
    for route in request.app.routes:
        match, _ = route.matches(request.scope)
        if match is not Match.NONE:
            found |= set(route.methods or ())
    return found | ({"HEAD"} if "GET" in found else set())
