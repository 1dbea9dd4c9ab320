"""The one task: somebody rang, so look at the queue and run what there is until nothing fits."""

import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog
from celery import Celery
from kombu.exceptions import OperationalError
from sqlalchemy.exc import SQLAlchemyError

from core.assembly import Assembly
from core.bell import TASK, queue_of_worker
from core.claims import Claim, Claims
from core.database import Database, is_outage
from core.devices import free_by_kind, offered
from core.gangs import Gangs
from core.job import Member as Seated
from core.settings import Settings
from core.storage import Store
from workers.announce import Inventory
from workers.forkserver import wait_until_warm
from workers.hearing import hear
from workers.member import Member
from workers.slots import Slots
from workers.standbys import Standbys
from workers.supervisor import Supervisor

REST_SECONDS = 5.0
REST_MAX_SECONDS = 300.0
RING_EXPIRES_SECONDS = 60.0

log = structlog.get_logger()


class Desk:
    """What every ring of the bell in this worker works with."""

    def __init__(
        self, database: Database, store: Store, config: Settings, worker_id: str, inventory: Inventory, address: str
    ) -> None:
        """Other machines reach this one's trainers at `address`."""
        self.shutting_down = threading.Event()
        self._database = database
        self._store = store
        self._config = config
        self.worker_id = worker_id
        self.name = config.worker
        self.queue = queue_of_worker(worker_id)
        self.ring: Callable[[str], None] = lambda queue: None
        """Sends a message to a queue; set once there is a Celery application."""
        patience, hold = config.gang_patience_seconds, config.gang_hold_seconds
        self.assembly = Assembly(config.worker_silence_seconds, patience, hold)
        self._claims = Claims(database, self.assembly)
        self._gangs = Gangs(database)
        self._slots = Slots()
        self._address = address
        self._class_paths = frozenset(entry.class_path for entry in inventory.catalog.entries)
        self._threads = _threads(inventory.devices)
        self._announced = inventory.devices
        self._devices = [device["id"] for device in inventory.devices]
        self._standbys = Standbys(config.catalog_modules, self._threads) if config.standby else None
        self._rests_until = 0.0
        self._rest_seconds = REST_SECONDS

    def work(self) -> None:
        """Claim and run jobs, best first, until none is left that fits. One that was rung for may be gone already."""
        try:
            while not self.shutting_down.is_set() and not self.rests and self._work_once():
                pass
            self.stand_by()
        except SQLAlchemyError as error:
            if not is_outage(error):
                raise
            log.warning("database_away", error=str(error).splitlines()[0])  # the reconciler rings when it is back
        except (OSError, EOFError) as error:
            self._rest(f"the fork server gave no process: {error!r}")

    def stand_by(self) -> None:
        """Have a trainer wait for each device that is free, so that the next job need not start one."""
        if self._standbys is None or self.shutting_down.is_set():
            return
        try:
            self._standbys.keep(self._slots.free(self._devices))
        except (OSError, EOFError) as error:
            log.warning("no_standby", detail=f"the fork server gave no process: {error!r}")

    def _foretell(self, devices: Sequence[str], config: dict[str, Any]) -> None:
        """Have the trainer that stands by read the config of its next run, while the claim is still being committed."""
        if self._standbys is not None:
            self._standbys.foretell(devices, json.dumps(config), claimed=True)

    def hear(self, accelerator: str, config: str) -> None:
        """Have it do so already when a job is submitted that this worker might be given."""
        if self._standbys is not None and not self.rests and not self.shutting_down.is_set():
            free = set(self._slots.free(self._devices))
            kinds = free_by_kind(self._announced, set(self._devices) - free)
            self._standbys.foretell(offered(kinds, accelerator)[:1], config, claimed=False)

    @property
    def rests(self) -> bool:
        """Whether this worker leaves the queue to others for a while, for it could not start what it was given."""
        return time.monotonic() < self._rests_until

    def _work_once(self) -> bool:
        """Take part in a job to which this worker was called, or claim and run one; whether there was one."""
        wait_until_warm()
        seat = self._gangs.answer(self.worker_id)
        if seat is not None:
            self._take_part(*seat)
            return True
        claim = self._claims.claim(
            self.worker_id, self._config.worker, self._config.lease_seconds, self.can_run, self._foretell
        )
        if claim is None:
            return False
        log.info("claimed", job_id=claim.job.id, attempt=claim.attempt, devices=claim.devices)
        for worker_id in claim.called:
            self.ring(queue_of_worker(worker_id))
        with self._slots.use(claim.devices, self._config.lease_seconds / 2):
            parts = (self._database, self._store, self._config)
            fit = Supervisor(*parts, claim, self._threads, self.shutting_down, self._address, self._standbys).run()
        self._fare(claim, fit)
        return True

    def _take_part(self, claim: Claim, seat: Seated) -> None:
        log.info("called", job_id=claim.job.id, attempt=claim.attempt, node=claim.node_rank, devices=claim.devices)
        with self._slots.use(claim.devices, self._config.lease_seconds / 2):
            parts = (self._database, self._store, self._config)
            fit = Member(*parts, claim, seat, self._threads, self.shutting_down, self._address).run()
        self._fare(claim, fit)

    def _fare(self, claim: Claim, fit: bool) -> None:
        if fit:
            self._rest_seconds = REST_SECONDS
        else:
            # What it could not start, it may not start next either: other workers go first.
            self._rest(f"{claim.job.id} could not be started")

    def _rest(self, why: str) -> None:
        log.warning("worker_rests", seconds=self._rest_seconds, detail=why)
        self._rests_until = time.monotonic() + self._rest_seconds
        self._rest_seconds = min(2 * self._rest_seconds, REST_MAX_SECONDS)

    def has_work(self, older_than_seconds: float) -> bool:
        """Whether a job that this worker could run now has waited for so long that its bell may be lost."""
        if self.rests:
            return False
        called = self._gangs.is_called(self.worker_id)
        return called or self._claims.claimable(self.worker_id, older_than_seconds, self.can_run)

    @property
    def accepts(self) -> bool:
        """Whether others may call this worker to jobs of several machines."""
        return not self.rests and not self.shutting_down.is_set()

    def decline(self) -> None:
        """Refuse what this worker has been called to and will not take. Raises `SQLAlchemyError` in an outage."""
        for job_id in self._gangs.decline(self.worker_id, "it takes no jobs just now"):
            log.warning("call_declined", job_id=job_id)

    def can_run(self, class_paths: Sequence[str]) -> bool:
        """Whether this worker announced all of these classes."""
        return self._class_paths.issuperset(class_paths)


def _threads(devices: Sequence[Mapping[str, Any]]) -> int:
    """Threads of a trainer: its share of the cores where several slots share them, else as many as by hand.

    Ranks that all use every core are many times slower than ranks that share them, for OpenMP's threads spin.
    """
    slots = sum(device["id"].startswith("cpu:") for device in devices)
    return max(1, (os.cpu_count() or 1) // slots) if slots > 1 else 0


def register(app: Celery, desk: Desk) -> None:
    """Make the task known to a Celery application."""

    def ring(queue: str) -> None:
        try:
            app.send_task(TASK, queue=queue, expires=RING_EXPIRES_SECONDS, ignore_result=True, retry=False)
        except OperationalError as error:  # whoever is called looks for itself now and then
            log.warning("broker_away", error=str(error))

    desk.ring = ring

    hear(app, desk.name, desk.hear)

    @app.task(name=TASK, ignore_result=True)
    def work(job_id: str | None = None) -> None:
        desk.work()
