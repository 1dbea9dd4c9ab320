"""The workers that are up, what they run on, and the catalogues they announce."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, Select, delete, select, update

from core.database import Database
from core.devices import Host
from core.tables import catalogs, device_claims, workers


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker process. `busy` maps each claimed device to the job that has it."""

    id: str
    name: str
    pid: int
    devices: list[dict[str, Any]]
    versions: dict[str, str]
    address: str
    accepts: bool
    catalog_digest: str | None
    started_at: datetime
    heartbeat_at: datetime
    stopped_at: datetime | None
    online: bool
    busy: Mapping[str, str]


class Fleet:
    """The store of workers and their catalogues."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def join(
        self,
        worker_id: str,
        name: str,
        pid: int,
        devices: Sequence[Mapping[str, Any]],
        versions: Mapping[str, str],
        address: str = "127.0.0.1",
    ) -> None:
        """Announce a worker and its devices; other machines reach its trainers at `address`."""
        with self._database.write() as connection:
            now = self._database.now(connection)
            connection.execute(
                self._database.insert(workers).values(
                    id=worker_id,
                    name=name,
                    pid=pid,
                    devices=[dict(device) for device in devices],
                    versions=dict(versions),
                    address=address,
                    accepts=False,
                    started_at=now,
                    heartbeat_at=now,
                )
            )

    def announce(self, worker_id: str, digest: str, body: str) -> None:
        """Say what a worker can run: its catalogue as JSON, kept once per digest."""
        with self._database.write() as connection:
            now = self._database.now(connection)
            statement = self._database.insert(catalogs).values(digest=digest, body=body, announced_at=now)
            connection.execute(statement.on_conflict_do_update(index_elements=["digest"], set_={"announced_at": now}))
            connection.execute(update(workers).where(workers.c.id == worker_id).values(catalog_digest=digest))

    def beat(self, worker_id: str, *, accepts: bool = True) -> None:
        """Say that a worker is up. `accepts`: others may call it to jobs of several machines."""
        with self._database.write() as connection:
            now = self._database.now(connection)
            connection.execute(
                update(workers)
                .where(workers.c.id == worker_id)
                .values(heartbeat_at=now, stopped_at=None, accepts=accepts)
            )

    def rest(self, worker_id: str) -> None:
        """Say that a worker is not to be called to jobs of several machines any more."""
        with self._database.write() as connection:
            connection.execute(update(workers).where(workers.c.id == worker_id).values(accepts=False))

    def leave(self, worker_id: str) -> None:
        """Say that a worker has stopped in good order."""
        with self._database.write() as connection:
            now = self._database.now(connection)
            connection.execute(update(workers).where(workers.c.id == worker_id).values(stopped_at=now))

    def page(self, silence_seconds: float, *, after_id: str | None = None, limit: int = 20) -> Sequence[Worker]:
        """Up to `limit` workers that have not left, newest first."""
        query = select(workers).where(workers.c.stopped_at.is_(None)).order_by(workers.c.id.desc()).limit(limit)
        if after_id is not None:
            query = query.where(workers.c.id < after_id)
        with self._database.read() as connection:
            now = self._database.now(connection)
            rows = connection.execute(query).all()
            taken = select(device_claims).where(device_claims.c.worker_id.in_([row.id for row in rows]))
            claims = connection.execute(taken).all()
        cutoff = now - timedelta(seconds=silence_seconds)
        return [_as_worker(row, cutoff, claims) for row in rows]

    def hosts(self, silence_seconds: float) -> Sequence[Host]:
        """What the workers that are up have to run on."""
        with self._database.read() as connection:
            now = self._database.now(connection)
            live = select(workers.c.devices, workers.c.versions).where(
                workers.c.stopped_at.is_(None), workers.c.heartbeat_at > now - timedelta(seconds=silence_seconds)
            )
            return [Host(row.devices, row.versions) for row in connection.execute(live)]

    def catalog_digests(self, silence_seconds: float) -> Sequence[str]:
        """Digests of the catalogues of the workers that are up; where none is, of the one announced last."""
        with self._database.read() as connection:
            now = self._database.now(connection)
            live: Select[Any] = (
                select(workers.c.catalog_digest)
                .where(
                    workers.c.stopped_at.is_(None),
                    workers.c.heartbeat_at > now - timedelta(seconds=silence_seconds),
                    workers.c.catalog_digest.is_not(None),
                )
                .distinct()
            )
            found = sorted(connection.execute(live).scalars())
            if not found:
                newest = select(catalogs.c.digest).order_by(catalogs.c.announced_at.desc()).limit(1)
                found = list(connection.execute(newest).scalars())
        return found

    def catalog_bodies(self, digests: Sequence[str]) -> Sequence[str]:
        """The catalogues of these digests, as the JSON that was announced."""
        with self._database.read() as connection:
            return list(connection.execute(select(catalogs.c.body).where(catalogs.c.digest.in_(digests))).scalars())

    def collect(self, keep_seconds: float, limit: int = 1000) -> None:
        """Forget workers that have been silent for long, so that the table does not grow for ever.

        With them go the catalogues that no worker has any more; the one announced last is kept.
        """
        with self._database.write() as connection:
            cutoff = self._database.now(connection) - timedelta(seconds=keep_seconds)
            old = select(workers.c.id).where(workers.c.heartbeat_at < cutoff).limit(limit)
            connection.execute(delete(workers).where(workers.c.id.in_(old)))
            named = select(workers.c.catalog_digest).where(workers.c.catalog_digest.is_not(None))
            newest = select(catalogs.c.digest).order_by(catalogs.c.announced_at.desc()).limit(1)
            unused = catalogs.c.digest.not_in(named) & (catalogs.c.digest != newest.scalar_subquery())
            # Locked first, asked again then: a worker may be announcing one of them at this moment.
            locks = select(catalogs.c.digest).where(unused).limit(limit).with_for_update()
            locked = connection.execute(locks).scalars().all()
            connection.execute(delete(catalogs).where(catalogs.c.digest.in_(locked), unused))


def _as_worker(row: Row[Any], cutoff: datetime, claims: Sequence[Any]) -> Worker:
    busy = {claim.device: claim.job_id for claim in claims if claim.worker_id == row.id}
    return Worker(**row._mapping, online=row.heartbeat_at > cutoff, busy=busy)
