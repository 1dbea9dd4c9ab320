"""The parts of one API process, made once and shared by its requests."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from app.batched import Batched
from app.catalog import LiveCatalog
from app.doorbell import Doorbell
from app.reads import Reads
from app.stream import Hub
from app.weights import Exports
from core.attempts import Attempts
from core.checkpoints import Artifacts, Checkpoints
from core.database import Database
from core.errors import Unauthorized
from core.events import Events
from core.fleet import Fleet
from core.idempotency import Idempotency
from core.jobs import Jobs
from core.logs import Logs
from core.metrics import Metrics
from core.origins import Origins
from core.queue import Queue
from core.security import Caller, authenticate, digest
from core.settings import Settings
from core.storage import Store

KEY_SECONDS = 5.0
"""How long a key is taken as valid without asking the database; a revoked one works for so long."""
KEYS_MAX = 10_000
ROOM_SECONDS = 2.0
"""How long, at the least, the room left in a project's queue is counted from one look at it."""
JOBS_PER_SECOND_MAX = 10_000
"""All API processes together make fewer: so much room lasts for longer, and counting a long queue takes long."""


@dataclass(frozen=True)
class Service:
    """Stores, hub and doorbell of one process."""

    config: Settings
    database: Database
    jobs: Jobs
    attempts: Attempts
    queue: Queue
    events: Events
    metrics: Metrics
    checkpoints: Checkpoints
    exports: Exports
    artifacts: Artifacts
    origins: Origins
    logs: Logs
    fleet: Fleet
    idempotency: Idempotency
    store: Store
    catalog: LiveCatalog
    reads: Reads
    hub: Hub
    doorbell: Doorbell
    keys: "Keys"
    room: "Room"

    @classmethod
    def of(cls, config: Settings) -> "Service":
        """The parts that the settings describe. Nothing is connected yet."""
        database = Database.of(config)
        jobs, fleet, queue = Jobs(database), Fleet(database), Queue(database)
        store, events = Store(config.storage), Events(database)
        return cls(
            config=config,
            database=database,
            jobs=jobs,
            attempts=Attempts(database),
            queue=queue,
            events=events,
            metrics=Metrics(database),
            checkpoints=Checkpoints(database),
            exports=Exports(store),
            artifacts=Artifacts(database),
            origins=Origins(database),
            logs=Logs(database),
            fleet=fleet,
            idempotency=Idempotency(database, config.idempotency_hours),
            store=store,
            catalog=LiveCatalog(fleet, config.worker_silence_seconds),
            reads=Reads(jobs, queue, events, config.worker_silence_seconds),
            hub=Hub(jobs.marks, config.hub_interval_seconds, config.waiters_max_count),
            doorbell=Doorbell(config),
            keys=Keys(database),
            room=Room(queue, config.queued_jobs_max_count),
        )


class Keys:
    """API keys, remembered for a few seconds, so that most requests need no look into the database for theirs."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[str, tuple[float, Caller]] = {}
        self._asked = Batched(self._look)

    async def caller(self, key: str) -> Caller:
        """The caller of a key. Raises `Unauthorized`."""
        fingerprint = digest(key)
        at, caller = self._known.get(fingerprint, (float("-inf"), None))
        if caller is not None and time.monotonic() - at < KEY_SECONDS:
            return caller
        found = await self._asked.get(key)
        assert found is not None
        if isinstance(found, Unauthorized):
            raise found.with_traceback(None)
        if len(self._known) >= KEYS_MAX:
            self._known.clear()
        self._known[fingerprint] = (time.monotonic(), found)
        return found

    def _look(self, keys: Sequence[str]) -> dict[str, Caller | Unauthorized]:
        found: dict[str, Caller | Unauthorized] = {}
        for key in keys:
            try:
                found[key] = authenticate(self._database, key)
            except Unauthorized as error:
                found[key] = error
        return found


class Room:
    """How many more jobs a project may queue: counted now and then, not at each submission of a thousand."""

    def __init__(self, queue: Queue, most: int) -> None:
        self._queue = queue
        self._most = most
        self._left: dict[str, tuple[float, int]] = {}

    def take(self, project_id: str) -> bool:
        """Whether one more job may be queued; counts it as queued."""
        at, left = self._left.get(project_id, (float("-inf"), 0))
        if left <= 0 or time.monotonic() - at > max(ROOM_SECONDS, left / JOBS_PER_SECOND_MAX):
            at, left = time.monotonic(), self._most - self._queue.queued_count(project_id, self._most)
        self._left[project_id] = (at, left - 1)
        return left > 0
