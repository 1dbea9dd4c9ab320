"""Metrics of jobs: series in figures, point by point, and of many jobs at once."""

import difflib
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Request, Response

from app import cursor as cursors
from app.deps import GUARDS, Body, CallerOf, Cursor, JobId, Parts, Step
from app.request_bodies import METRICS_QUERY
from app.routes.documented import BODY, problems
from app.schemas.resource import Page, answer
from app.schemas.results import MetricOut, SeriesListOut, SeriesOut
from app.submission import read_json
from core.errors import BadRequest, Fault, Invalid, NotFound
from core.ids import is_id
from core.metrics import readable
from core.series import Series
from core.values import escape

router = APIRouter(prefix="/v1", tags=["metrics"], dependencies=GUARDS)

POINTS_DEFAULT = 1000
QUERY_NAMES_MAX = 100
QUERY_POINTS_MAX = 1_000_000
"""Most points that one query may ask for, over all its jobs and names."""


@router.get(
    "/jobs/{job_id}/metrics", response_model=Page[MetricOut], summary="List a job's metrics", responses=problems()
)
def list_metrics(
    parts: Parts,
    caller: CallerOf,
    job_id: JobId,
    limit: Annotated[int | None, Query(ge=1, le=200, description="Most rows; without it, all of them.")] = None,
    cursor: Cursor = None,
) -> Response:
    """Every series in figures, by name."""
    parts.jobs.get(caller.project_id, job_id)
    listing = f"metrics {job_id}"
    rows = list(parts.metrics.summaries(job_id))
    if cursor is not None:
        after = cursors.decode(cursor, listing, str)
        rows = [row for row in rows if row.name > after]
    shown = rows[:limit]
    return answer(
        Page[MetricOut](
            data=[MetricOut.of(row) for row in shown],
            next_cursor=cursors.encode(shown[-1].name, listing) if len(rows) > len(shown) else None,
        )
    )


@router.get(
    "/jobs/{job_id}/metrics/{name:path}",
    response_model=SeriesOut,
    summary="Read a series",
    responses=problems(),
)
def read_series(
    parts: Parts,
    caller: CallerOf,
    job_id: JobId,
    name: str,
    from_step: Step = None,
    to_step: Step = None,
    max_points: Annotated[int, Query(ge=1, description="More are joined into buckets.")] = POINTS_DEFAULT,
) -> Response:
    """The points of one series between two steps, both included; buckets keep their last value and extremes."""
    most = parts.config.points_max_count
    if max_points > most:
        raise BadRequest(f"max_points is {max_points}: at most {most} are given.", code="bad_parameter")
    parts.jobs.get(caller.project_id, job_id)
    series = None
    if "\0" not in name:
        series = parts.metrics.series(job_id, name, from_step=from_step, to_step=to_step, max_points=max_points)
    if series is None:
        known = [row.name for row in parts.metrics.summaries(job_id)]
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean {close[0]!r}?" if close else "`known` has what it logged so far."
        raise NotFound(f"{job_id} has logged no {name[:100]!r}. {hint}", code="metric_not_found", known=known[:200])
    return _json(_told(series))


@router.post(
    "/metrics:query",
    response_model=SeriesListOut,
    summary="Read series of many jobs",
    responses=problems(*BODY),
    openapi_extra=METRICS_QUERY,
)
def query(request: Request, parts: Parts, caller: CallerOf, body: Body) -> Response:
    """Series of up to a hundred jobs in one call, in the order asked for; what was never logged is left out."""
    asked = read_json(parts, body, request.headers.get("content-type"))
    job_ids, names, max_points = _checked(parts.config.query_jobs_max_count, parts.config.points_max_count, asked)
    own = parts.jobs.owned(caller.project_id, [job_id for job_id in job_ids if is_id("job", job_id)])
    foreign = [
        Fault(f"/job_ids/{index}", "job_not_found", f"There is no job {job_id[:100]!r} here.")
        for index, job_id in enumerate(job_ids)
        if job_id not in own
    ]
    if foreign:
        raise Invalid("Some of these jobs are not here.", foreign)
    found = parts.metrics.query(job_ids, names, max_points)
    data = [
        {"job_id": job_id, **_told(found[job_id][name])}
        for job_id in dict.fromkeys(job_ids)
        for name in dict.fromkeys(names)
        if name in found[job_id]
    ]
    return _json({"data": data})


def _checked(jobs_max: int, points_max: int, asked: Any) -> tuple[list[str], list[str], int]:
    """The query, or every fault of it."""
    if not isinstance(asked, dict):
        raise Invalid("The body must be an object.", [Fault("", "wrong_type", "Expected an object.")])
    known = ("job_ids", "names", "max_points")
    faults = [
        Fault(f"/{escape(key)}", "unknown_field", f"There is no such field; there are {', '.join(known)}.")
        for key in asked
        if key not in known
    ]
    lists: list[list[str]] = []
    for key, most in (("job_ids", jobs_max), ("names", QUERY_NAMES_MAX)):
        value = asked.get(key)
        if key not in asked:
            faults.append(Fault(f"/{key}", "missing", f"{key} is needed: a list of strings."))
        elif not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            faults.append(Fault(f"/{key}", "wrong_type", "Expected a list of strings."))
        elif not 1 <= len(value) <= most:
            faults.append(Fault(f"/{key}", "out_of_range", f"Expected 1 to {most} of them, found {len(value)}."))
        lists.append(value if isinstance(value, list) else [])
    max_points = asked.get("max_points", POINTS_DEFAULT)
    if not isinstance(max_points, int) or isinstance(max_points, bool):
        faults.append(Fault("/max_points", "wrong_type", "Expected an integer."))
    elif not 1 <= max_points <= points_max:
        faults.append(Fault("/max_points", "out_of_range", f"Expected 1 to {points_max}."))
    elif len(lists[0]) * len(lists[1]) * max_points > QUERY_POINTS_MAX:
        message = f"{len(lists[0])} jobs with {len(lists[1])} names and {max_points} points each are more than the "
        faults.append(Fault("/max_points", "out_of_range", message + f"{QUERY_POINTS_MAX} points of one answer."))
    if faults:
        raise Invalid("The query is wrong.", faults)
    return lists[0], lists[1], max_points


def _told(series: Series) -> dict[str, Any]:
    points = [
        {
            "step": point.step,
            "epoch": point.epoch,
            "value": readable(point.value),
            "min": None if point.min is None else readable(point.min),
            "max": None if point.max is None else readable(point.max),
            "at": point.at,
        }
        for point in series.points
    ]
    return {"name": series.name, "points": points, "downsampled": series.downsampled}


def _json(body: dict[str, Any]) -> Response:
    """Long series go out without a pass through models, which takes as long as all the rest."""
    return Response(orjson.dumps(body, option=orjson.OPT_UTC_Z), media_type="application/json")
