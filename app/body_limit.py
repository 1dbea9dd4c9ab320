"""Bodies are limited while they arrive: in bytes, and in time."""

import asyncio
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.problem import RequestTimeout
from core.errors import BadRequest, BodyTooLarge


class BodyLimit:
    """ASGI: raises while a route reads a body that is too large or too slow, so that no more of it is kept."""

    def __init__(self, app: ASGIApp, max_bytes: int, timeout_seconds: float) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.timeout_seconds = timeout_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the request.

        The rest of a body that is refused is discarded by the server as it comes, so that a caller that sends all
        of it before it reads still gets the answer.
        """
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        self._check_announced(_content_length(scope))
        deadline = time.monotonic() + self.timeout_seconds
        read_bytes = 0
        whole = False

        async def limited() -> Message:
            nonlocal read_bytes, whole
            if whole:  # what comes now is the caller hanging up, for which a route may wait long
                return await receive()
            try:
                async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                    message = await receive()
            except TimeoutError:
                raise RequestTimeout(
                    f"The body did not arrive within {self.timeout_seconds:g} seconds.", headers={"Connection": "close"}
                ) from None
            read_bytes += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if read_bytes > self.max_bytes:
                raise self._too_large(f"more than {self.max_bytes}")
            return message

        await self.app(scope, limited, send)

    def _check_announced(self, length: str | None) -> None:
        if length is None:
            return
        if not length.isdecimal():
            raise BadRequest("Content-Length is not a number.", code="bad_content_length")
        if int(length) > self.max_bytes:
            raise self._too_large(length)

    def _too_large(self, length: str) -> BodyTooLarge:
        return BodyTooLarge(f"The body is {length} bytes; at most {self.max_bytes} are read.")


def _content_length(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name == b"content-length":
            length: str = value.decode("latin-1")
            return length
    return None
