"""Epilogue: what is recorded of an attempt after it is over, by whoever finds it. It has no token any more."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select, update

from core import events
from core.database import Database
from core.errors import LeaseLost
from core.jobs import touch
from core.tables import attempts


class Epilogue:
    """Writes the rest of an attempt's history. The job's state is another attempt's by now, or final: it stays."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def offset(self, job_id: str, number: int) -> int | None:
        """How much of its spool is recorded of an attempt that is over; None: it is under way, or its job is gone."""
        with self._database.read() as connection:
            return _offset(connection, job_id, number)

    def note(
        self,
        connection: Connection,
        job_id: str,
        number: int,
        happened: Sequence[tuple[str, datetime, Mapping[str, Any]]] = (),
        *,
        spool_span: tuple[int, int] | None = None,
    ) -> bool:
        """Record events inside the transaction that writes more of an attempt that is over; whether it may.

        `spool_span` are the bytes of its spool that are recorded by this. It may not where they do not follow what is
        recorded already, where the attempt is under way, or where its job was deleted: nothing is written then.
        """
        try:
            touch(connection, job_id)  # the job's row first: its lock orders whoever writes of the same job
        except LeaseLost:
            return False
        recorded = _offset(connection, job_id, number)
        if recorded is None or (spool_span is not None and recorded != spool_span[0]):
            return False
        this = (attempts.c.job_id == job_id) & (attempts.c.number == number)
        for event_type, at, data in happened:
            events.record(connection, job_id, event_type, at, data)
            if event_type == "resumed" and data.get("resume") in ("exact", "epoch"):
                connection.execute(update(attempts).where(this).values(resume=data["resume"]))
        if spool_span is not None:
            connection.execute(update(attempts).where(this).values(spool_offset=spool_span[1]))
        return True


def _offset(connection: Connection, job_id: str, number: int) -> int | None:
    query = select(attempts.c.spool_offset).where(
        attempts.c.job_id == job_id, attempts.c.number == number, attempts.c.ended_at.is_not(None)
    )
    return connection.execute(query).scalar_one_or_none()
