"""What a job's trainer printed, in chunks, in the database, so that any API process can read it."""

from dataclasses import dataclass

from sqlalchemy import Connection, func, insert, select, update

from core.database import Database
from core.tables import log_chunks

CHUNK_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a job's log: `data` begins at byte `offset` of the whole log, which is `size_bytes` long so far."""

    offset: int
    data: bytes
    size_bytes: int


class Logs:
    """The store of logs. The whole log of a job is its attempts' logs, one after the other."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, connection: Connection, job_id: str, attempt: int, offset: int, data: bytes) -> None:
        """Write what follows byte `offset` of an attempt's log, inside the caller's transaction.

        The caller ships in order, each byte at least once: what is there already stays as it is. Small pieces grow
        the last chunk, up to `CHUNK_BYTES`, so that the cost of reading follows the log's size and not its age.
        """
        own = (log_chunks.c.job_id == job_id) & (log_chunks.c.attempt == attempt)
        newest = select(log_chunks.c.offset, log_chunks.c.length).where(own).order_by(log_chunks.c.offset.desc())
        last = connection.execute(newest.limit(1)).one_or_none()
        if last is not None and offset < last.offset + last.length:
            data = data[last.offset + last.length - offset :]
            offset = last.offset + last.length
        if not data:
            return
        if last is None or last.length + len(data) > CHUNK_BYTES:
            chunk = {"job_id": job_id, "attempt": attempt, "offset": offset, "length": len(data), "data": data}
            connection.execute(insert(log_chunks).values(chunk))
            return
        its = own & (log_chunks.c.offset == last.offset)
        # Joined here, because SQLite's || makes text of bytes.
        grown = bytes(connection.execute(select(log_chunks.c.data).where(its)).scalar_one()) + data
        connection.execute(update(log_chunks).where(its).values(length=len(grown), data=grown))

    def size(self, job_id: str, attempt: int) -> int:
        """How many bytes of an attempt's log are there: the offset from which to ship on."""
        query = select(func.coalesce(func.sum(log_chunks.c.length), 0))
        with self._database.read() as connection:
            return int(
                connection.execute(
                    query.where(log_chunks.c.job_id == job_id, log_chunks.c.attempt == attempt)
                ).scalar_one()
            )

    def read(self, job_id: str, offset: int = 0, limit_bytes: int = 2**20) -> Span:
        """Up to `limit_bytes` of a job's log from byte `offset` on; a negative offset counts from the end."""
        of_job = log_chunks.c.job_id == job_id
        sizes = (
            select(log_chunks.c.attempt, func.sum(log_chunks.c.length).label("size"))
            .where(of_job)
            .group_by(log_chunks.c.attempt)
            .order_by(log_chunks.c.attempt)
        )
        with self._database.read() as connection:
            begins: dict[int, int] = {}
            size = 0
            for row in connection.execute(sizes):
                begins[row.attempt] = size
                size += row.size
            start = max(0, size + offset) if offset < 0 else offset
            end = min(size, start + limit_bytes)
            if start >= end:
                return Span(offset=start, data=b"", size_bytes=size)
            first = max(attempt for attempt, begin in begins.items() if begin <= start)
            last = max(attempt for attempt, begin in begins.items() if begin < end)
            chunks = connection.execute(
                select(log_chunks.c.attempt, log_chunks.c.offset, log_chunks.c.data)
                .where(
                    of_job,
                    log_chunks.c.attempt.between(first, last),
                    (log_chunks.c.attempt > first)
                    | (log_chunks.c.offset + log_chunks.c.length > start - begins[first]),
                    (log_chunks.c.attempt < last) | (log_chunks.c.offset < end - begins[last]),
                )
                .order_by(log_chunks.c.attempt, log_chunks.c.offset)
            ).all()
        begin = begins[first] + chunks[0].offset
        data = b"".join(bytes(chunk.data) for chunk in chunks)
        return Span(offset=start, data=data[start - begin : end - begin], size_bytes=size)
