"""Which machines a job of several could have, and for which one devices are kept free until it has them all."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, or_, select

from core.catalog import Catalog
from core.devices import Kinds, free_by_kind, kind_for, offered
from core.states import Status
from core.tables import SEVERAL, catalogs, device_claims, jobs, workers

LOOK = 10
"""How many of the first jobs of several machines are looked at for the one that devices are kept free for."""
CATALOGS_KEPT = 32
SAME = ("torch", "pytorch_lightning")
"""Versions that the machines of one job must have in common: ranks of others would not understand each other."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A worker that is up and takes part in jobs of several machines, with its devices of the kind that a job needs."""

    worker_id: str
    name: str
    kind: str
    free: Sequence[str]
    devices: Sequence[str]
    versions: tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class Hold:
    """A queued job of several machines that has waited for long: its `places` keep devices free for it."""

    job_id: str
    priority: int
    accelerator: str
    devices: int
    places: Collection[str]

    def ahead(self) -> ColumnElement[bool]:
        """The condition on `jobs` that one is as important, or is the job itself: nothing is kept from it."""
        older = and_(jobs.c.priority == self.priority, jobs.c.id <= self.job_id)
        return or_(jobs.c.priority > self.priority, older)

    def spared(self, kinds: Kinds) -> dict[str, Sequence[str]]:
        """The free devices of one of its places, less those that are kept."""
        mine = kind_for(kinds, self.accelerator)
        return {kind: free[self.devices :] if kind == mine else free for kind, free in kinds.items()}


class Assembly:
    """Looks for machines, inside the transactions of claims.

    A hold begins when a job has waited for `patience_seconds` and lasts `hold_seconds`; then others may have the
    devices for as long, and so on. So no stream of small jobs keeps a large one waiting for ever, and no large one
    that cannot be had keeps machines idle for ever. 0 seconds: nothing is held.
    """

    def __init__(self, silence_seconds: float, patience_seconds: float, hold_seconds: float) -> None:
        self._silence_seconds = silence_seconds
        self._patience_seconds = patience_seconds
        self._hold_seconds = hold_seconds
        self._classes: dict[str, frozenset[str]] = {}

    def others(
        self,
        connection: Connection,
        job: Any,
        classes: Sequence[str],
        worker_id: str,
        now: datetime,
        *,
        lock: bool = False,
    ) -> Sequence[Machine] | None:
        """The further machines that a job could have now beside a worker's own, the fullest first; None: too few.

        `lock`: their workers' rows are locked. One that another transaction holds is passed over, never waited for,
        so that two claims which want each other's machine do not wait for each other.
        """
        machines = self.machines(connection, job.accelerator, classes, now)
        own = next((machine for machine in machines if machine.worker_id == worker_id), None)
        if own is None or len(own.free) < job.devices:
            return None
        fitting = [one for one in machines if one is not own and goes_with(one, own) and len(one.free) >= job.devices]
        fitting.sort(key=lambda one: (len(one.free), one.worker_id))
        wanted = fitting[: job.nodes - 1]
        if len(wanted) < job.nodes - 1:
            return None
        if lock:
            rows = select(workers.c.id).where(workers.c.id.in_([one.worker_id for one in wanted]), workers.c.accepts)
            locked = connection.execute(rows.order_by(workers.c.id).with_for_update(skip_locked=True)).scalars().all()
            taken = _taken(connection, locked)  # looked at again, now that nobody else can take any
            wanted = [one for one in wanted if one.worker_id in locked]
            free = {one.worker_id: [d for d in one.free if (one.worker_id, d) not in taken] for one in wanted}
            if len(wanted) < job.nodes - 1 or any(len(devices) < job.devices for devices in free.values()):
                return None
            wanted = [
                Machine(one.worker_id, one.name, one.kind, free[one.worker_id], one.devices, one.versions)
                for one in wanted
            ]
        return wanted

    def hold(self, connection: Connection, now: datetime) -> Hold | None:
        """The first job that devices are kept free for, and where; None: there is none.

        Its places are as many machines as it needs, those first that have most of their devices free by now.
        """
        if not self._hold_seconds:
            return None
        patient = jobs.c.available_at <= now - timedelta(seconds=self._patience_seconds)
        # Worded as the index of the few such jobs is, or the database would not use it.
        query = (
            select(jobs)
            .where(SEVERAL, jobs.c.status == Status.QUEUED, patient)
            .order_by(jobs.c.priority.desc(), jobs.c.id)
            .limit(LOOK)
        )
        for job in connection.execute(query).all():
            waited = (now - job.available_at).total_seconds() - self._patience_seconds
            if int(waited // self._hold_seconds) % 2:
                continue
            machines = self.machines(connection, job.accelerator, job.class_paths, now)
            machines = [one for one in machines if len(one.devices) >= job.devices]
            machines.sort(key=lambda one: (-min(len(one.free), job.devices), one.worker_id))
            for first in machines:
                places = [one.worker_id for one in machines if goes_with(one, first)][: job.nodes]
                if len(places) == job.nodes:
                    return Hold(job.id, job.priority, job.accelerator, job.devices, frozenset(places))
        return None

    def machines(
        self, connection: Connection, accelerator: str, classes: Sequence[str], now: datetime
    ) -> list[Machine]:
        """The workers that are up and have all of a job's classes."""
        up = (
            workers.c.stopped_at.is_(None),
            workers.c.accepts,
            workers.c.heartbeat_at > now - timedelta(seconds=self._silence_seconds),
        )
        rows = connection.execute(select(workers).where(*up)).all()
        taken = _taken(connection, [row.id for row in rows])
        needed = frozenset(classes)
        return [_machine(row, accelerator, taken) for row in rows if needed <= self._announced(connection, row)]

    def _announced(self, connection: Connection, worker: Row[Any]) -> frozenset[str]:
        digest = worker.catalog_digest
        if digest is None:
            return frozenset()
        known = self._classes.get(digest)
        if known is None:
            body = connection.execute(select(catalogs.c.body).where(catalogs.c.digest == digest)).scalar_one_or_none()
            entries = Catalog.from_json(body).entries if body is not None else ()
            if len(self._classes) >= CATALOGS_KEPT:
                self._classes.clear()
            known = self._classes[digest] = frozenset(entry.class_path for entry in entries)
        return known


def _machine(row: Row[Any], accelerator: str, taken: Collection[tuple[str, str]]) -> Machine:
    busy = {device for worker_id, device in taken if worker_id == row.id}
    everything = free_by_kind(row.devices)
    kind = kind_for(everything, accelerator)
    free = offered(free_by_kind(row.devices, busy), accelerator)
    # Who is reached from its own machine only, goes with others that are: those are on the same one.
    local = row.address == "::1" or row.address.startswith("127.")
    versions = (*(row.versions.get(name) for name in SAME), "local" if local else None)
    return Machine(row.id, row.name, kind, free, everything.get(kind, []), versions)


def goes_with(one: Machine, other: Machine) -> bool:
    """Whether two machines can take part in one job."""
    return (one.kind, one.versions) == (other.kind, other.versions)


def _taken(connection: Connection, worker_ids: Sequence[str]) -> set[tuple[str, str]]:
    query = select(device_claims.c.worker_id, device_claims.c.device).where(device_claims.c.worker_id.in_(worker_ids))
    return {(row.worker_id, row.device) for row in connection.execute(query)}
