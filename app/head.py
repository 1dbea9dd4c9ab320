"""HEAD on every GET."""

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class HeadAsGet:
    """ASGI: answers HEAD as GET without the body. A route that would work for its body asks `is_head` and saves it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the request."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return

        async def without_body(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        scope["state"]["is_head"] = True
        inner = {**scope, "method": "GET"}  # a copy: the server still has to know that this is HEAD
        try:
            await self.app(inner, receive, without_body)
        finally:
            if "route" in inner:
                scope["route"] = inner["route"]


def is_head(request: Request) -> bool:
    """Whether the caller wants the head alone."""
    return bool(request.scope["state"].get("is_head"))
