"""The poll: reading one job, which clients do a thousand times for each other call."""

import re

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from app import etag
from app.deps import KEY_MAX_CHARACTERS, accepts
from app.problem import database_failed
from app.service import Service
from core.security import Caller

JSON = "application/json"
WAIT_MAX_SECONDS = 60
_KEY = re.compile(rb"Bearer (ly_[A-Za-z0-9_-]{1,%d})" % (KEY_MAX_CHARACTERS - len("ly_")))
_PATH = re.compile("/v1/jobs/(job_[0-9a-hjkmnp-tv-z]{26})")
_READ = frozenset({b"authorization", b"accept", b"if-none-match"})
_OF_BODIES = frozenset({b"content-length", b"transfer-encoding", b"expect"})
_WAIT = re.compile(rb"wait=([0-9]{1,2})")


class Polls:
    """ASGI: answers polls that are beyond doubt before they come to FastAPI, which takes longer than all the rest.

    Whatever is unusual about a request, and be it the spelling of a header, goes on to the route, where each fault has
    its name; both answer by `answered`.
    """

    def __init__(self, app: ASGIApp, parts: Service, route: BaseRoute) -> None:
        self.app = app
        self.parts = parts
        self.route = route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the request."""
        usual = _usual(scope) if scope["type"] == "http" and scope["method"] == "GET" else None
        if usual is None:
            await self.app(scope, receive, send)
            return
        scope["route"] = self.route
        request = Request(scope, receive)
        key, job_id, wait_seconds, if_none_match = usual
        try:
            caller = await self.parts.keys.caller(key)
            response = await answered(request, self.parts, caller, job_id, wait_seconds, if_none_match)
        except (DBAPIError, PoolTimeout) as error:
            response = await database_failed(request, error)
        await response(scope, receive, send)


class JobResponse(Response):
    """A job, or None where the caller has it. Its headers are few and known, so that nothing need look for them."""

    def __init__(self, tag: str, body: bytes | None) -> None:
        self.status_code = 304 if body is None else 200
        self.body = body or b""
        self.background = None
        self.raw_headers = [(b"etag", tag.encode())]
        if body is not None:
            self.raw_headers += [(b"content-length", b"%d" % len(body)), (b"content-type", JSON.encode())]


async def answered(
    request: Request, parts: Service, caller: Caller, job_id: str, wait_seconds: float, if_none_match: str | None
) -> Response:
    """The job, or 304 where `If-None-Match` names its version; with a wait, as soon as it has another.

    Raises `NotFound`, and `Unavailable` when too many wait already.
    """
    if if_none_match is not None:
        mark = await parts.reads.mark(caller, job_id)
        tag = etag.of_version(job_id, mark.version)
        if etag.matches_weakly(if_none_match, tag):
            seconds = min(wait_seconds, parts.config.wait_max_seconds)
            if not seconds or mark.is_final:
                return JobResponse(tag, None)
            parts.hub.check_room()
            await request.body()  # if a GET has one, it is not what is waited for
            async with parts.hub.watching(job_id, request.receive) as watch:
                if not await watch.changed(mark.version, seconds):
                    return JobResponse(tag, None)
    shown = await parts.reads.shown(caller, job_id)
    if etag.matches_weakly(if_none_match, shown.tag):
        return JobResponse(shown.tag, None)
    return JobResponse(shown.tag, shown.body)


def _usual(scope: Scope) -> tuple[str, str, float, str | None] | None:
    """By which key who asks for which job, how long they wait and which version they have; None: look closer."""
    path = _PATH.fullmatch(scope["path"])
    if path is None:
        return None
    wait_seconds = 0
    if query := scope["query_string"]:
        wait = _WAIT.fullmatch(query)
        if wait is None or (wait_seconds := int(wait[1])) > WAIT_MAX_SECONDS:
            return None
    given: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        if name in _READ:
            if name in given:
                return None
            given[name] = value
        elif name in _OF_BODIES:
            return None
    key = _KEY.fullmatch(given.get(b"authorization", b""))
    accept = given.get(b"accept", b"*/*")
    if key is None or (accept != b"*/*" and not accepts(accept.decode("latin-1"), JSON)):
        return None
    tag = given.get(b"if-none-match")
    return key[1].decode(), path[1], float(wait_seconds), None if tag is None else tag.decode("latin-1")
