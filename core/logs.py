"""What each rank of a job printed, in chunks, in the database, so that any API process can read it."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, func, insert, select, update

from core.database import Database
from core.tables import log_chunks, rank_log_chunks

CHUNK_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a job's log: `data` begins at byte `offset` of the whole log, which is `size_bytes` long so far."""

    offset: int
    data: bytes
    size_bytes: int


class Logs:
    """The store of logs. The whole log of a rank is its attempts' logs, one after the other; rank 0's is the job's."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self, connection: Connection, job_id: str, attempt: int, offset: int, data: bytes, *, rank: int = 0
    ) -> None:
        """Write what follows byte `offset` of an attempt's log, inside the caller's transaction.

        The caller ships in order, each byte at least once: what is there already stays as it is. Small pieces grow
        the last chunk, up to `CHUNK_BYTES`, so that the cost of reading follows the log's size and not its age.
        """
        table, of_rank = _of_rank(job_id, rank)
        own = of_rank & (table.c.attempt == attempt)
        newest = select(table.c.offset, table.c.length).where(own).order_by(table.c.offset.desc())
        last = connection.execute(newest.limit(1)).one_or_none()
        if last is not None and offset < last.offset + last.length:
            data = data[last.offset + last.length - offset :]
            offset = last.offset + last.length
        if not data:
            return
        if last is None or last.length + len(data) > CHUNK_BYTES:
            chunk: dict[str, Any] = {"job_id": job_id, "attempt": attempt, "offset": offset}
            chunk |= {"length": len(data), "data": data} | ({"rank": rank} if rank else {})
            connection.execute(insert(table).values(chunk))
            return
        its = own & (table.c.offset == last.offset)
        # Joined here, because SQLite's || makes text of bytes.
        grown = bytes(connection.execute(select(table.c.data).where(its)).scalar_one()) + data
        connection.execute(update(table).where(its).values(length=len(grown), data=grown))

    def size(self, job_id: str, attempt: int, *, rank: int = 0) -> int:
        """How many bytes of an attempt's log are there: the offset from which to ship on."""
        table, of_rank = _of_rank(job_id, rank)
        query = select(func.coalesce(func.sum(table.c.length), 0)).where(of_rank, table.c.attempt == attempt)
        with self._database.read() as connection:
            return int(connection.execute(query).scalar_one())

    def read(self, job_id: str, offset: int = 0, limit_bytes: int = 2**20, *, rank: int = 0) -> Span:
        """Up to `limit_bytes` of a rank's log from byte `offset` on; a negative offset counts from the end."""
        table, of_rank = _of_rank(job_id, rank)
        sizes = (
            select(table.c.attempt, func.sum(table.c.length).label("size"))
            .where(of_rank)
            .group_by(table.c.attempt)
            .order_by(table.c.attempt)
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
                select(table.c.attempt, table.c.offset, table.c.data)
                .where(
                    of_rank,
                    table.c.attempt.between(first, last),
                    (table.c.attempt > first) | (table.c.offset + table.c.length > start - begins[first]),
                    (table.c.attempt < last) | (table.c.offset < end - begins[last]),
                )
                .order_by(table.c.attempt, table.c.offset)
            ).all()
        begin = begins[first] + chunks[0].offset
        data = b"".join(bytes(chunk.data) for chunk in chunks)
        return Span(offset=start, data=data[start - begin : end - begin], size_bytes=size)


def _of_rank(job_id: str, rank: int) -> tuple[Table, ColumnElement[bool]]:
    """Where a rank's log is kept, and the condition that a chunk is of it."""
    if rank == 0:
        return log_chunks, log_chunks.c.job_id == job_id
    return rank_log_chunks, (rank_log_chunks.c.job_id == job_id) & (rank_log_chunks.c.rank == rank)
