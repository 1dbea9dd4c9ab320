"""The API process as an ASGI app."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from fastapi import FastAPI

from app import openapi, problem
from app.body_limit import BodyLimit
from app.head import HeadAsGet
from app.observer import Figures, Observer
from app.poll import Polls
from app.problem import CatchAll
from app.routes import artifacts, catalog, checkpoints, dry_runs, events, fleet, health, jobs, logs, metrics
from app.service import Service
from app.upkeep import upkeep
from core.settings import Settings, settings

ROUTERS = (jobs, dry_runs, events, logs, metrics, checkpoints, artifacts, catalog, fleet, health)


def create_app(config: Settings | None = None) -> FastAPI:
    """The app for these settings (default: the environment's). Connects to nothing until it starts."""
    service = Service.of(config or settings())
    figures = Figures(service.queue.live_counts, lambda: service.hub.waiters)
    app = FastAPI(
        title="Lightyard",
        version=openapi.VERSION,
        summary="Training jobs for PyTorch Lightning.",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        # FastAPI would look for OpenTelemetry's providers at each request, which takes a tenth of a poll.
        telemetry={"tracing": False, "metrics": False, "logs": False},
        lifespan=_lifespan,
        routes=[route for module in ROUTERS for route in module.router.routes],
    )
    app.state.service = service
    app.state.figures = figures
    openapi.install(app)
    problem.install(app)
    # The last added is the outermost: each request passes Observer first.
    app.add_middleware(BodyLimit, service.config.body_max_bytes, service.config.body_timeout_seconds)
    app.add_middleware(HeadAsGet)
    app.add_middleware(Polls, service, jobs.READ)
    app.add_middleware(CatchAll)
    app.add_middleware(Observer, figures)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    service: Service = app.state.service
    service.doorbell.start()
    tasks = [asyncio.create_task(service.hub.run()), asyncio.create_task(upkeep(service))]
    try:
        yield
    finally:
        service.hub.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await anyio.to_thread.run_sync(service.doorbell.stop)
        service.database.close()
