from collections.abc import Callable

from core.database import Database
from core.jobs import Job
from core.logs import Logs


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


def test_a_chunk_shipped_twice_is_there_once(database: Database, submit: Callable[..., Job]) -> None:
    job, logs = submit(), Logs(database)
    for _ in range(2):
        with database.write() as connection:
            logs.add(connection, job.id, 1, 0, b"once")
    assert logs.read(job.id).data == b"once"
    assert logs.read(submit().id).data == b""
