"""The hub: one task per process that looks for changes of watched jobs and wakes whoever waits for them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ParamSpec, TypeVar

import anyio
import orjson
import structlog
from anyio import CapacityLimiter
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request
from starlette.responses import StreamingResponse

from core.errors import Unavailable

T = TypeVar("T")
P = ParamSpec("P")

RETRY_MILLISECONDS = 1000
"""How long a browser waits before it opens a broken stream again."""
OUTAGE_PAUSE_SECONDS = 1.0

log = structlog.get_logger("lightyard.api")


@dataclass
class _Topic:
    """A watched job: how many watch it, the version last seen (None: not looked at yet), and who to wake."""

    watchers: int = 0
    version: int | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class Hub:
    """Wakes those who wait for a job to change.

    However many wait, it is one query per interval and process. While the database is away nobody is woken and
    nothing breaks; `close` lets everybody go.
    """

    def __init__(
        self, versions: Callable[[Sequence[str]], Mapping[str, int]], interval_seconds: float, waiters_max: int
    ) -> None:
        self._versions = versions
        self._interval_seconds = interval_seconds
        self._waiters_max = waiters_max
        self._waiters = 0
        self._topics: dict[str, _Topic] = {}
        self._watched = asyncio.Event()
        self._closing = asyncio.Event()

    @property
    def waiters(self) -> int:
        """How many requests are waiting or streaming."""
        return self._waiters

    @property
    def is_closing(self) -> bool:
        """Whether the server is about to stop."""
        return self._closing.is_set()

    def close(self) -> None:
        """Let all waiters go, now and from now on, because the server is to stop."""
        self._closing.set()
        for topic in self._topics.values():
            topic.changed.set()

    def check_room(self) -> None:
        """Raise `Unavailable` when too many wait already."""
        if self._waiters >= self._waiters_max:
            raise Unavailable(
                f"{self._waiters_max} requests are waiting here already: poll without `wait`, or try again later.",
                code="too_many_waiters",
                retry_after_seconds=5,
            )

    @asynccontextmanager
    async def watching(self, job_id: str) -> AsyncIterator["Watch"]:
        """Watch a job, after `check_room`."""
        topic = self._topics.setdefault(job_id, _Topic())
        topic.watchers += 1
        self._waiters += 1
        self._watched.set()
        try:
            yield Watch(self, topic)
        finally:
            self._waiters -= 1
            topic.watchers -= 1
            if not topic.watchers:
                del self._topics[job_id]

    async def run(self) -> None:
        """Look for changes for as long as the process runs."""
        limiter = CapacityLimiter(1)  # its own thread: requests that wait for the database must not starve it
        away = False
        while True:
            if not self._topics:
                self._watched.clear()
                await self._watched.wait()
            await asyncio.sleep(self._interval_seconds)
            ids = list(self._topics)
            try:
                found = await anyio.to_thread.run_sync(self._versions, ids, limiter=limiter) if ids else {}
            except SQLAlchemyError as error:
                if not away:
                    log.warning("hub_lost_the_database", error=str(error).partition("\n")[0])
                away = True
                await asyncio.sleep(OUTAGE_PAUSE_SECONDS)
                continue
            if away:
                log.info("hub_found_the_database_again")
                away = False
            for job_id in ids:
                topic = self._topics.get(job_id)
                version = found.get(job_id, -1)  # -1: deleted, which is a change as well
                if topic is not None and version != topic.version:
                    topic.version = version
                    topic.changed.set()


class Watch:
    """One waiter's view of a job."""

    def __init__(self, hub: Hub, topic: _Topic) -> None:
        self._hub = hub
        self._topic = topic

    async def changed(self, seen_version: int, seconds: float) -> bool:
        """Whether the job's version is another than the one seen, waiting for that up to `seconds`.

        Returns False at once when the server is about to stop.
        """
        try:
            async with asyncio.timeout(seconds):
                while not self._hub.is_closing:
                    if self._topic.version not in (None, seen_version):
                        return True
                    self._topic.changed.clear()
                    await self._topic.changed.wait()
        except TimeoutError:
            return False
        return False


async def until_hung_up(request: Request) -> None:
    """Return when the caller has gone. The body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def unless_hung_up(request: Request, waiting: Coroutine[Any, Any, T]) -> T | None:
    """What `waiting` returns, or None as soon as the caller has gone: then it is cancelled."""
    result: T | None = None
    await request.body()  # if a GET has one, it is not what is waited for
    async with anyio.create_task_group() as group:

        async def leave_with_caller() -> None:
            await until_hung_up(request)
            group.cancel_scope.cancel()

        group.start_soon(leave_with_caller)
        result = await waiting
        group.cancel_scope.cancel()
    return result


class EventStream(StreamingResponse):
    """Server-sent events (WHATWG HTML, 9.2)."""

    media_type = "text/event-stream"

    def __init__(self, content: AsyncIterator[bytes]) -> None:
        # Proxies such as nginx hold a stream back until it ends unless told not to.
        super().__init__(content, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})


def message(event: str, data: Any, event_id: str | None = None) -> bytes:
    """One server-sent event; its data is JSON, which has no line break."""
    head = f"id: {event_id}\n" if event_id is not None else ""
    return f"{head}event: {event}\ndata: ".encode() + orjson.dumps(data, default=str) + b"\n\n"


def opening() -> bytes:
    """What a stream begins with: how soon to come back when it breaks."""
    return f"retry: {RETRY_MILLISECONDS}\n\n".encode()


COMMENT = b": still here\n\n"


async def in_thread(verb: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Run a store verb without holding up the event loop."""
    return await anyio.to_thread.run_sync(partial(verb, *arguments, **named))
