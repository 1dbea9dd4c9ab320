"""What happened to a job, in order, never changed afterwards."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, insert, select

from core.database import Database
from core.tables import events

_INSERT = insert(events)


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened. Ids grow within a job, so an id is also a place to read on from."""

    id: int
    job_id: str
    type: str
    at: datetime
    data: dict[str, Any]


def append(connection: Connection, job_id: str, event_type: str, at: datetime | None = None, **data: Any) -> None:
    """Add an event inside the transaction that makes it true.

    The caller has changed the job's row before, in the same transaction: its lock orders the ids of one job.
    """
    record(connection, job_id, event_type, at or datetime.now(UTC), data)


def record(connection: Connection, job_id: str, event_type: str, at: datetime, data: Mapping[str, Any]) -> None:
    """As `append`, for data that come from outside, whose names may be any."""
    connection.execute(_INSERT, {"job_id": job_id, "type": event_type, "at": at, "data": dict(data)})


class Events:
    """Reads events."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def after(self, job_id: str, event_id: int, limit: int) -> Sequence[Event]:
        """Up to `limit` events of a job that came after `event_id` (0: from the first), oldest first."""
        with self._database.read() as connection:
            return _after(connection, job_id, event_id, limit)

    def after_each(self, places: Sequence[tuple[str, int]], limit: int) -> dict[tuple[str, int], Sequence[Event]]:
        """As `after`, of many jobs and events at once."""
        with self._database.read() as connection:
            return {place: _after(connection, *place, limit) for place in places}


def _after(connection: Connection, job_id: str, event_id: int, limit: int) -> Sequence[Event]:
    query = select(events).where(events.c.job_id == job_id, events.c.id > event_id).order_by(events.c.id).limit(limit)
    return [Event(**row._mapping) for row in connection.execute(query)]
