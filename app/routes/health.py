"""Health, metrics for Prometheus, and the OpenAPI document: what stands outside `/v1` and needs no key."""

import anyio
import orjson
from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from sqlalchemy.exc import SQLAlchemyError

from app.deps import Parts
from app.routes.documented import problems
from app.schemas.resource import HealthOut, answer
from core.database import is_current
from core.errors import Unavailable

router = APIRouter(tags=["health"])

READY_SECONDS = 3.0
"""A database that takes longer to say anything is not ready."""


@router.get("/healthz", response_model=HealthOut, summary="Is the process up")
async def healthz() -> Response:
    """Always ok while the process answers at all."""
    return answer(HealthOut(status="ok", checks={}))


@router.get("/readyz", response_model=HealthOut, summary="Can it take requests", responses=problems())
async def readyz(parts: Parts) -> Response:
    """Whether the database answers, with this version's schema.

    The broker is not asked: jobs are taken and run without it, a little later.
    """
    with anyio.move_on_after(READY_SECONDS):
        try:
            current = await anyio.to_thread.run_sync(is_current, parts.database, abandon_on_cancel=True)
        except SQLAlchemyError as error:
            raise Unavailable("The database does not answer.", code="not_ready") from error
        if not current:
            raise Unavailable("The database's schema is not this version's: run the migrations.", code="not_ready")
        return answer(HealthOut(status="ok", checks={"database": "ok"}))
    raise Unavailable(f"The database has not answered within {READY_SECONDS:g} seconds.", code="not_ready")


@router.get("/metrics", include_in_schema=False)
def metrics(request: Request) -> Response:
    """Figures in Prometheus' text format."""
    return Response(generate_latest(request.app.state.figures.registry), media_type=CONTENT_TYPE_LATEST)


@router.get("/openapi.json", include_in_schema=False)
def openapi(request: Request) -> Response:
    """The OpenAPI document."""
    return Response(orjson.dumps(request.app.openapi()), media_type="application/json")
