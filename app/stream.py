"""The hub: one task per process that looks for changes of watched jobs and wakes whoever waits for them."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, ParamSpec, TypeVar

import anyio
import orjson
import structlog
from anyio import CapacityLimiter
from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from core.errors import LightyardError, Unavailable
from core.job import Mark

T = TypeVar("T")
P = ParamSpec("P")

RETRY_MILLISECONDS = 1000
"""How long a browser waits before it opens a broken stream again."""
OUTAGE_PAUSE_SECONDS = 1.0
LOOKS_APART = 3
"""The hub rests for so many times as long as a look took, where that is longer than its interval."""
WOKEN_AT_ONCE = 250

log = structlog.get_logger("lightyard.api")


class _Topic:
    """A watched job: who watches it, and how it stood when it was last looked at (None: not yet, or deleted)."""

    def __init__(self) -> None:
        self.watches: dict[Watch, None] = {}
        self.mark: Mark | None = None
        self.is_deleted = False


class Hub:
    """Wakes those who wait for a job to change.

    However many wait, it is one look per interval and process. While the database is away nobody is woken and
    nothing breaks; `close` lets everybody go.
    """

    def __init__(
        self, marks: Callable[[Sequence[str]], Mapping[str, Mark]], interval_seconds: float, waiters_max: int
    ) -> None:
        self._marks = marks
        self._interval_seconds = interval_seconds
        self._waiters_max = waiters_max
        self._waiters = 0
        self._topics: dict[str, _Topic] = {}
        self._watched = asyncio.Event()
        self._is_closing = False

    @property
    def waiters(self) -> int:
        """How many requests are waiting or streaming."""
        return self._waiters

    @property
    def is_closing(self) -> bool:
        """Whether the server is about to stop."""
        return self._is_closing

    def close(self) -> None:
        """Let all waiters go, now and from now on, because the server is to stop."""
        self._is_closing = True
        for topic in self._topics.values():
            for watch in topic.watches:
                watch.wake()

    def check_room(self) -> None:
        """Raise `Unavailable` when too many wait already."""
        if self._waiters >= self._waiters_max:
            raise Unavailable(
                f"{self._waiters_max} requests are waiting here already: poll without `wait`, or try again later.",
                code="too_many_waiters",
                retry_after_seconds=5,
            )

    @asynccontextmanager
    async def watching(self, job_id: str, receive: Receive) -> AsyncIterator["Watch"]:
        """Watch a job, after `check_room`, for a caller that `receive` tells of: of its hanging up, above all."""
        topic = self._topics.setdefault(job_id, _Topic())
        watch = Watch(self, topic)
        topic.watches[watch] = None
        self._waiters += 1
        self._watched.set()
        listening = asyncio.create_task(watch.listen(receive))
        try:
            yield watch
        finally:
            listening.cancel()
            self._waiters -= 1
            del topic.watches[watch]
            if not topic.watches:
                del self._topics[job_id]

    async def run(self) -> None:
        """Look for changes for as long as the process runs."""
        limiter = CapacityLimiter(1)  # its own thread: requests that wait for the database must not starve it
        away = False
        took_seconds = 0.0
        while True:
            if not self._topics:
                self._watched.clear()
                await self._watched.wait()
            await asyncio.sleep(max(self._interval_seconds, LOOKS_APART * took_seconds))
            ids = list(self._topics)
            began = time.monotonic()
            try:
                found = await anyio.to_thread.run_sync(self._marks, ids, limiter=limiter) if ids else {}
            except SQLAlchemyError as error:
                if not away:
                    log.warning("hub_lost_the_database", error=str(error).partition("\n")[0])
                away = True
                await asyncio.sleep(OUTAGE_PAUSE_SECONDS)
                continue
            if away:
                log.info("hub_found_the_database_again")
                away = False
            took_seconds = time.monotonic() - began
            await self._tell(ids, found)

    async def _tell(self, ids: Sequence[str], found: Mapping[str, Mark]) -> None:
        """Wake those for whom it is news, some at a time, so that the first are answered before the last are woken."""
        woken = 0
        for job_id in ids:
            topic, mark = self._topics.get(job_id), found.get(job_id)
            if topic is None or (mark is not None and mark == topic.mark):
                continue
            topic.mark, topic.is_deleted = mark, mark is None
            for watch in list(topic.watches):
                if watch.is_news():
                    watch.wake()
                    woken += 1
                    if woken % WOKEN_AT_ONCE == 0:
                        await asyncio.sleep(0)


class Watch:
    """One waiter's view of a job."""

    def __init__(self, hub: Hub, topic: _Topic) -> None:
        self._hub = hub
        self._topic = topic
        self._seen_version = 0
        self._waiting: asyncio.Future[None] | None = None
        self.has_left = False
        """Whether the caller has hung up."""

    @property
    def mark(self) -> Mark | None:
        """How the job stood when the hub last looked; None: it was deleted, or the hub has not looked yet."""
        return self._topic.mark

    def is_news(self) -> bool:
        """Whether the job stands otherwise than the waiter has seen it. Versions only grow."""
        mark = self._topic.mark
        return self._topic.is_deleted if mark is None else mark.version > self._seen_version

    async def changed(self, seen_version: int, seconds: float) -> bool:
        """Whether the job's version is another than the one seen, waiting for that up to `seconds`.

        Returns False at once when the caller hangs up, and when the server is about to stop.
        """
        self._seen_version = seen_version
        if not self.is_news() and not self.has_left and not self._hub.is_closing:
            loop = asyncio.get_running_loop()
            self._waiting = loop.create_future()
            timer = loop.call_later(seconds, self.wake)
            try:
                await self._waiting
            finally:
                self._waiting = None
                timer.cancel()
        return self.is_news() and not self.has_left and not self._hub.is_closing

    def wake(self) -> None:
        """End the wait."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def listen(self, receive: Receive) -> None:
        """End the wait when the caller has gone."""
        try:
            while (await receive())["type"] != "http.disconnect":
                pass
        except LightyardError:  # what is wrong with a body that a GET should not have
            pass
        self.has_left = True
        self.wake()


class EventStream(StreamingResponse):
    """Server-sent events (WHATWG HTML, 9.2). What writes them ends when the caller has hung up."""

    media_type = "text/event-stream"

    def __init__(self, content: AsyncIterator[bytes]) -> None:
        # Proxies such as nginx hold a stream back until it ends unless told not to.
        super().__init__(content, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, without the two tasks with which Starlette looks for the caller's end: a `Watch` does so."""
        await self.stream_response(send)


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
