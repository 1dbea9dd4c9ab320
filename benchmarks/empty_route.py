"""The limit of any FastAPI service: a route that does nothing, served as Lightyard's API is served.

`python -m benchmarks.empty_route` listens on `LIGHTYARD_PORT`.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import uvicorn
from fastapi import FastAPI, Response

from core.settings import Settings
from embedded.home import free_port
from embedded.lineage import bound_to_parent
from tests.waiting import wait_until

HOST = "127.0.0.1"
START_SECONDS = 60.0

app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)


@app.get("/empty")
async def empty() -> Response:
    """The least that a route can answer with."""
    return Response(b"{}", media_type="application/json")


@contextmanager
def empty_route() -> Iterator[str]:
    """Address of a process of its own that serves the route."""
    port = free_port(HOST)
    address = f"http://{HOST}:{port}"
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.empty_route"],
        env=os.environ | {"LIGHTYARD_HOST": HOST, "LIGHTYARD_PORT": str(port)},
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=bound_to_parent(),
    )

    def answers() -> bool:
        assert process.poll() is None
        try:
            return httpx.get(f"{address}/empty", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    try:
        wait_until(answers, what="the empty route answers", deadline_seconds=START_SECONDS)
        yield address
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


if __name__ == "__main__":
    config = Settings()
    served = {"loop": "uvloop", "http": "httptools", "ws": "none", "lifespan": "on", "access_log": False}
    uvicorn.run(app, host=config.host, port=config.port, log_config=None, server_header=False, **served)
