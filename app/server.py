"""The HTTP server of the API process."""

import resource
import socket

import uvicorn
from fastapi import FastAPI

from app.connection import Connection
from core.settings import Settings

GRACE_SECONDS = 8
"""From SIGTERM until requests that are still running are cut off."""
KEEP_ALIVE_SECONDS = 75
"""Longer than the idle time of common proxies, which would otherwise send into a connection that just closed."""
BACKLOG = 2048


class Server(uvicorn.Server):
    """uvicorn, which lets waiting requests go as soon as it is to stop, instead of waiting for them."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen. Each connection is an open file, of which a process may by default have 1024 unless it asks."""
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        await super().startup(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop: streams end, polls answer, the rest is waited for."""
        self.config.app.state.service.hub.close()  # type: ignore[union-attr]  # it is the FastAPI that `server` was given
        await super().shutdown(sockets)


def server(app: FastAPI, config: Settings) -> Server:
    """The server for an app, not started."""
    return Server(
        uvicorn.Config(
            app,
            host=config.host,
            port=config.port,
            loop="uvloop",
            http=Connection,
            ws="none",
            lifespan="on",
            access_log=False,
            log_config=None,
            server_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
    )
