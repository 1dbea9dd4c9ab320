"""What polls and streams ask again and again: how a job stands, how it is shown, and what its events tell next."""

import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app import etag
from app.batched import Batched
from app.schemas.jobs import EventOut, JobOut
from app.schemas.resource import as_json
from app.stream import message
from core.events import Events
from core.job import Job, Mark
from core.jobs import Jobs, not_here
from core.queue import Queue, Waiting
from core.security import Caller
from core.states import Status

BATCH_EVENTS = 200
STREAMS_AT_ONCE = 4
PLACES_MAX = 50
"""Streams at different places of different jobs are looked after in parts, so that none waits for all others."""


KEPT_BYTES = 8 * 2**20
KEPT_SECONDS = 5.0
Key = tuple[str, str, str]
"""A job's id, the id of the caller's project and its name."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A job as its project's callers see it: its tag, and the body of the answer."""

    tag: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Told:
    """What a job's events tell from behind one of them on, as server-sent events; `more`: there may be more."""

    text: bytes
    last_id: int
    more: bool


class Kept:
    """Jobs rendered a moment ago, for as long as they have the same version. For one thread at a time.

    A database that was put back to an earlier state may give a version to something else: so none is kept for long.
    """

    def __init__(self) -> None:
        self._size_bytes = 0
        self._kept: OrderedDict[Key, tuple[float, int, Shown]] = OrderedDict()

    def get(self, key: Key, version: int) -> Shown | None:
        """The job at this version; None: it is not kept."""
        at, kept_version, shown = self._kept.get(key, (float("-inf"), 0, None))
        return shown if kept_version == version and time.monotonic() - at < KEPT_SECONDS else None

    def put(self, key: Key, version: int, shown: Shown) -> None:
        """Keep it, and let go of what is kept for longest where there is no room."""
        self._drop(key)
        self._kept[key] = time.monotonic(), version, shown
        self._size_bytes += len(shown.body)
        while self._size_bytes > KEPT_BYTES:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: Key) -> None:
        if key in self._kept:
            self._size_bytes -= len(self._kept.pop(key)[2].body)


class Reads:
    """Looks into the database that callers share; each thing is rendered once for all who ask at the same time."""

    def __init__(self, jobs: Jobs, queue: Queue, events: Events, silence_seconds: float) -> None:
        self._jobs = jobs
        self._queue = queue
        self._events = events
        self._silence_seconds = silence_seconds
        self._marks = Batched(jobs.marks)
        self._shown = Batched(self._show)
        self._kept = Kept()
        self._told = Batched(self._tell, keys_max=PLACES_MAX, at_once=STREAMS_AT_ONCE)

    async def mark(self, caller: Caller, job_id: str) -> Mark:
        """How a job of the caller's stands. Raises `NotFound`."""
        mark = await self._marks.get(job_id)
        if mark is None or mark.project_id != caller.project_id:
            raise not_here(job_id)
        return mark

    async def shown(self, caller: Caller, job_id: str) -> Shown:
        """A job of the caller's, rendered. Raises `NotFound`."""
        shown = await self._shown.get((job_id, caller.project_id, caller.project))
        if shown is None:
            raise not_here(job_id)
        return shown

    async def told(self, job_id: str, event_id: int) -> Told:
        """The events of a job that came after one."""
        told = await self._told.get((job_id, event_id))
        assert told is not None
        return told

    def _show(self, asked: Sequence[Key]) -> Mapping[Key, Shown]:
        marks = self._jobs.marks(list({job_id for job_id, *_ in asked}))
        own = [key for key in asked if key[0] in marks and marks[key[0]].project_id == key[1]]
        found = {key: kept for key in own if (kept := self._kept.get(key, marks[key[0]].version)) is not None}
        changed = [key for key in own if key not in found]
        jobs = self._jobs.look_up_all(list({job_id for job_id, *_ in changed})) if changed else {}
        waiting = self._waiting([job for job in jobs.values() if job.status is Status.QUEUED])
        for key in changed:
            job_id, _, project = key
            if (job := jobs.get(job_id)) is not None:
                body = as_json(JobOut.of(job, project, waiting.get(job_id)))
                found[key] = Shown(etag.of_version(job_id, job.version), body)
                if job.status is not Status.QUEUED:  # what it waits for changes without it
                    self._kept.put(key, job.version, found[key])
        return found

    def _waiting(self, queued: Sequence[Job]) -> Mapping[str, Waiting]:
        if len(queued) == 1:  # to count those ahead of one may take less than to count the whole queue
            return {queued[0].id: self._queue.waiting(queued[0], self._silence_seconds)}
        return self._queue.waiting_of(queued, self._silence_seconds)

    def _tell(self, places: Sequence[tuple[str, int]]) -> Mapping[tuple[str, int], Told]:
        found = {}
        for place, events in self._events.after_each(places, BATCH_EVENTS).items():
            text = [message(one.type, EventOut.of(one).model_dump(mode="json"), str(one.id)) for one in events]
            last_id = events[-1].id if events else place[1]
            found[place] = Told(b"".join(text), last_id, len(events) == BATCH_EVENTS)
        return found
