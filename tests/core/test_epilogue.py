from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from core.attempts import Attempts, Retry
from core.claims import Claim
from core.database import Database
from core.epilogue import Epilogue
from core.events import Events
from core.job import Job
from core.states import ReasonCode

AT = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture
def running(submit: Callable[..., Job], worker: Callable[..., str], claim: Callable[..., Claim]) -> Claim:
    submit()
    return claim(worker("cpu:0"))


def note(database: Database, held: Claim, first: int, last: int) -> bool:
    with database.write() as connection:
        happened = [("late", AT, {"from": first})]
        return Epilogue(database).note(connection, held.job.id, 1, happened, spool_span=(first, last))


def test_each_stretch_of_a_spool_is_recorded_once_and_only_behind_the_one_before(
    database: Database, running: Claim
) -> None:
    assert Epilogue(database).offset(running.job.id, 1) is None
    assert not note(database, running, 0, 10), "it is under way: its supervisor may ship it too"
    Attempts(database).lose(running.job.id, running.token, ReasonCode.PREEMPTED, "gone", Retry(1, 1))
    assert [note(database, running, *span) for span in ((5, 9), (0, 10), (0, 10), (10, 12))] == [
        False,
        True,
        False,
        True,
    ]
    assert Epilogue(database).offset(running.job.id, 1) == 12
    late = [event for event in Events(database).after(running.job.id, 0, 100) if event.type == "late"]
    assert [event.data["from"] for event in late] == [0, 10]


def test_nothing_is_recorded_of_what_never_was(database: Database, running: Claim) -> None:
    Attempts(database).lose(running.job.id, running.token, ReasonCode.PREEMPTED, "gone", Retry(1, 1))
    for job_id, number in ((running.job.id, 7), ("job_gone", 1)):
        assert Epilogue(database).offset(job_id, number) is None
        with database.write() as connection:
            assert not Epilogue(database).note(connection, job_id, number, [("late", AT, {})])
    assert "late" not in [event.type for event in Events(database).after(running.job.id, 0, 100)]
