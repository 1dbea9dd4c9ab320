"""What operators see of requests: an id for each, a line in the log, and Prometheus figures."""

import random
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
QUIET_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})
"""Asked every few seconds by machines: a line of level info would tell nothing."""
BUCKETS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
_ids = random.Random()  # noqa: S311  # seeded by the system once; nobody is kept out by them
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,100}")

log = structlog.get_logger("lightyard.api")


class Figures:
    """The Prometheus metrics of one app."""

    def __init__(self, live_jobs: Callable[[], Mapping[str, int]], waiters: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "lightyard_http_requests", "Requests answered.", ("method", "route", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "lightyard_http_request_seconds",
            "Time from the request to the end of its answer; streams and waits count in full.",
            ("method", "route"),
            buckets=BUCKETS_SECONDS,
            registry=self.registry,
        )
        self.registry.register(_Jobs(live_jobs, waiters))
        self._of: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request. The two figures of each method, route and status are looked up once: that takes longer."""
        of = self._of.get((method, route, status))
        if of is None:
            of = self.requests.labels(method, route, str(status)), self.seconds.labels(method, route)
            self._of[method, route, status] = of
        requests, histogram = of
        requests.inc()
        histogram.observe(seconds)


class _Jobs(Collector):
    """Jobs that have not ended, counted when Prometheus asks."""

    def __init__(self, live_jobs: Callable[[], Mapping[str, int]], waiters: Callable[[], int]) -> None:
        self._live_jobs = live_jobs
        self._waiters = waiters

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Nothing is asked of the database at registration."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The gauges; without the database, none of jobs."""
        yield GaugeMetricFamily("lightyard_http_waiters", "Requests that wait or stream.", value=self._waiters())
        try:
            counts = self._live_jobs()
        except SQLAlchemyError as error:
            log.warning("jobs_not_counted", error=str(error).partition("\n")[0])
            return
        jobs = GaugeMetricFamily("lightyard_jobs", "Jobs that have not ended, by status.", labels=("status",))
        for status, count in counts.items():
            jobs.add_metric((status,), count)
        yield jobs


class Observer:
    """ASGI: gives the request an id, logs it when it is answered, and counts it."""

    def __init__(self, app: ASGIApp, figures: Figures) -> None:
        self.app = app
        self.figures = figures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        status = 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self.app(scope, receive, watched)
        finally:
            self._record(scope, status, time.perf_counter() - began)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in METHODS else "other"
        route = getattr(scope.get("route"), "path", "unmatched")
        self.figures.answered(method, route, status, seconds)
        told: dict[str, Any] = {
            "method": method,
            "path": scope["path"][:300],
            "status": status,
            "milliseconds": round(seconds * 1000, 1),
        }
        if client := scope.get("client"):
            told["client"] = client[0]
        # Who polls is told "nothing new" (304) a thousand times for each change.
        quiet = status == 304 or (scope["path"] in QUIET_PATHS and status < 400)
        (log.debug if quiet else log.info)("request", **told)


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            given: str = value.decode("latin-1")
            if _REQUEST_ID.fullmatch(given):
                return given
            break
    return f"req_{_ids.getrandbits(80):020x}"
