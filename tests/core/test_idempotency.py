from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Connection, func, select

from core.database import Database
from core.errors import Invalid
from core.idempotency import Answer, Idempotency
from core.job import NewJob
from core.jobs import Jobs
from core.security import Caller
from core.tables import jobs

NEW = NewJob(config={}, class_paths=[], accelerator="auto", devices=1, max_seconds=1, max_attempts=1)


@pytest.fixture
def create(database: Database, caller: Caller) -> Callable[[Connection], Answer]:
    def make(connection: Connection) -> Answer:
        job = Jobs(database).create(connection, caller.project_id, NEW)
        return Answer(status=201, location=f"/v1/jobs/{job.id}", body=job.id.encode())

    return make


def count(database: Database) -> int:
    with database.read() as connection:
        return int(connection.execute(select(func.count()).select_from(jobs)).scalar_one())


def test_the_same_key_and_request_give_the_first_answer_again(
    database: Database, caller: Caller, create: Callable[[Connection], Answer]
) -> None:
    store = Idempotency(database, 24)
    assert store.find(caller.key_id, "k", b"body") is None
    first = store.once(caller.key_id, "k", b"body", create)
    again = store.once(caller.key_id, "k", b"body", create)
    assert (first.replayed, again.replayed) == (False, True)
    assert (again.body, again.location, again.status) == (first.body, first.location, 201)
    assert store.find(caller.key_id, "k", b"body") == again
    assert count(database) == 1


def test_the_same_key_with_another_request_is_refused(
    database: Database, caller: Caller, create: Callable[[Connection], Answer]
) -> None:
    store = Idempotency(database, 24)
    store.once(caller.key_id, "k", b"body", create)
    with pytest.raises(Invalid) as refused:
        store.once(caller.key_id, "k", b"other", create)
    assert refused.value.code == "idempotency_key_reused"
    assert count(database) == 1


def test_ten_at_once_make_one(database: Database, caller: Caller, create: Callable[[Connection], Answer]) -> None:
    store = Idempotency(database, 24)
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: store.once(caller.key_id, "k", b"body", create), range(10)))
    assert len({answer.body for answer in answers}) == 1
    assert [answer.replayed for answer in answers].count(False) == 1
    assert count(database) == 1


def test_a_creation_that_fails_leaves_neither_key_nor_job(
    database: Database, caller: Caller, create: Callable[[Connection], Answer]
) -> None:
    store = Idempotency(database, 24)

    def fail(connection: Connection) -> Answer:
        create(connection)
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError):
        store.once(caller.key_id, "k", b"body", fail)
    assert count(database) == 0
    assert not store.once(caller.key_id, "k", b"body", create).replayed


def test_a_key_is_forgotten_after_its_time(
    database: Database, caller: Caller, create: Callable[[Connection], Answer], tmp_path: Path
) -> None:
    expired = Idempotency(database, keep_hours=-1)
    expired.once(caller.key_id, "k", b"body", create)
    assert expired.find(caller.key_id, "k", b"body") is None
    assert not expired.once(caller.key_id, "k", b"other", create).replayed
    expired.collect()
    assert Idempotency(database, 24).find(caller.key_id, "k", b"other") is None
