"""What a job's trainer printed, in chunks, in the database, so that any API process can read it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, select

from core.database import Database
from core.tables import log_chunks


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
        """Write a chunk inside the caller's transaction; one already there stays as it is."""
        statement = self._database.insert(log_chunks).values(
            job_id=job_id, attempt=attempt, offset=offset, length=len(data), data=data
        )
        connection.execute(statement.on_conflict_do_nothing())

    def read(self, job_id: str, offset: int = 0, limit_bytes: int = 2**20) -> Span:
        """Up to `limit_bytes` of a job's log from byte `offset` on; a negative offset counts from the end."""
        with self._database.read() as connection:
            chunks = connection.execute(
                select(log_chunks.c.attempt, log_chunks.c.offset, log_chunks.c.length)
                .where(log_chunks.c.job_id == job_id)
                .order_by(log_chunks.c.attempt, log_chunks.c.offset)
            ).all()
            size = sum(chunk.length for chunk in chunks)
            start = max(0, size + offset) if offset < 0 else offset
            end = min(size, start + limit_bytes)
            parts: list[bytes] = []
            for begin, attempt, chunk_offset, length in _placed(chunks):
                if begin + length <= start or begin >= end:
                    continue
                data = connection.execute(
                    select(log_chunks.c.data).where(
                        log_chunks.c.job_id == job_id,
                        log_chunks.c.attempt == attempt,
                        log_chunks.c.offset == chunk_offset,
                    )
                ).scalar_one()
                parts.append(bytes(data)[max(0, start - begin) : end - begin])
        return Span(offset=start, data=b"".join(parts), size_bytes=size)


def _placed(chunks: Sequence[tuple[int, int, int]]) -> Iterator[tuple[int, int, int, int]]:
    begin = 0
    for attempt, offset, length in chunks:
        yield begin, attempt, offset, length
        begin += length
