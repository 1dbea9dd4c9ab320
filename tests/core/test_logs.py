import itertools
from collections.abc import Callable

from sqlalchemy import func, select

from core.database import Database
from core.job import Job
from core.logs import CHUNK_BYTES, Logs
from core.tables import log_chunks


def test_a_log_is_read_across_chunks_and_attempts_from_either_end(
    database: Database, submit: Callable[..., Job]
) -> None:
    job, logs = submit(), Logs(database)
    for attempt, offset, data in [(2, 0, b"second"), (1, 0, b"first "), (1, 6, b"try, ")]:
        with database.write() as connection:
            logs.add(connection, job.id, attempt, offset, data)
    whole = b"first try, second"
    assert logs.read(job.id).data == whole
    assert logs.read(job.id).size_bytes == len(whole)
    for start in range(len(whole) + 2):
        for length in (1, 4, 100):
            span = logs.read(job.id, start, length)
            assert (span.offset, span.data) == (start, whole[start : start + length])
    assert (logs.read(job.id, -6).offset, logs.read(job.id, -6).data) == (11, b"second")
    assert logs.read(job.id, -600).data == whole


def test_small_pieces_grow_into_few_chunks_that_are_read_byte_for_byte(
    database: Database, submit: Callable[..., Job]
) -> None:
    job, logs = submit(), Logs(database)
    pieces = [bytes([n % 256]) * (1 + 37 * n % 2000) for n in range(300)]
    whole = b""
    with database.write() as connection:
        for attempt, piece in itertools.product((1, 2), pieces):
            logs.add(connection, job.id, attempt, len(whole) - (attempt - 1) * sum(map(len, pieces)), piece)
            whole += piece
    with database.read() as connection:
        count, longest = connection.execute(select(func.count(), func.max(log_chunks.c.length))).one()
    assert longest <= CHUNK_BYTES
    assert count <= 2 * len(whole) / CHUNK_BYTES + 2
    for start in range(0, len(whole) + 1, 9973):
        for length in (1, 10_000, 200_000):
            span = logs.read(job.id, start, length)
            assert span.data == whole[start : start + length]
            assert span.size_bytes == len(whole)
    assert logs.read(job.id, -5000).data == whole[-5000:]


def test_a_piece_shipped_again_in_a_grown_chunk_changes_nothing_and_its_new_end_is_kept(
    database: Database, submit: Callable[..., Job]
) -> None:
    job, logs = submit(), Logs(database)
    # The last one: the commit of "two " got lost on its way back, and more was printed until it was shipped again.
    for offset, data in [(0, b"one "), (4, b"two "), (0, b"one "), (4, b"two "), (4, b"two three")]:
        with database.write() as connection:
            logs.add(connection, job.id, 1, offset, data)
    assert logs.read(job.id).data == b"one two three"
    assert logs.size(job.id, 1) == len(b"one two three")
    assert logs.size(job.id, 2) == 0


def test_every_byte_is_kept_as_it_is(database: Database, submit: Callable[..., Job]) -> None:
    job, logs = submit(), Logs(database)
    every = bytes(range(256))
    for offset in (0, 256):
        with database.write() as connection:
            logs.add(connection, job.id, 1, offset, every)
    assert logs.read(job.id).data == every * 2


def test_a_chunk_shipped_twice_is_there_once(database: Database, submit: Callable[..., Job]) -> None:
    job, logs = submit(), Logs(database)
    for _ in range(2):
        with database.write() as connection:
            logs.add(connection, job.id, 1, 0, b"once")
    assert logs.read(job.id).data == b"once"
    assert logs.read(submit().id).data == b""
