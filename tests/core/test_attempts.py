from collections.abc import Callable

import pytest

from core.attempts import Attempts, Retry
from core.claims import Claim
from core.database import Database
from core.errors import LeaseLost
from core.events import Events
from core.jobs import Job, Jobs
from core.security import Caller
from core.states import ReasonCode, Status

Submit = Callable[..., Job]
Join = Callable[..., str]
Take = Callable[..., Claim | None]

NOW = Retry(0.0001, 1.0)
LATER = Retry(60.0, 60.0)


def types(database: Database, job_id: str) -> list[str]:
    return [event.type for event in Events(database).after(job_id, 0, 100)]


def test_an_expired_lease_requeues_the_job_and_the_zombie_can_write_nothing(
    database: Database, caller: Caller, submit: Submit, worker: Join, claim: Take
) -> None:
    job = submit()
    store = Attempts(database)
    zombie = claim(worker("cpu:0"), lease_seconds=-1)
    assert zombie is not None
    assert store.expire(NOW) == [(job.id, Status.QUEUED)]
    assert store.expire(NOW) == []
    with pytest.raises(LeaseLost):
        store.renew(job.id, zombie.token, 5)
    with pytest.raises(LeaseLost):
        store.orders(job.id, zombie.token)
    with pytest.raises(LeaseLost):
        store.tell(job.id, zombie.token, "first_step")
    with pytest.raises(LeaseLost):
        store.finish(job.id, zombie.token, Status.SUCCEEDED)
    again = claim(worker("cpu:0"))
    assert again is not None
    assert (again.job.id, again.attempt) == (job.id, 2)
    assert again.token != zombie.token
    assert types(database, job.id) == ["created", "claimed", "attempt_lost", "requeued", "claimed"]
    tries = Jobs(database).get(caller.project_id, job.id).attempts_list
    assert [(one.number, one.outcome, one.resume) for one in tries] == [(1, "worker_lost", None), (2, None, None)]


def test_a_renewed_lease_does_not_expire(database: Database, submit: Submit, worker: Join, claim: Take) -> None:
    job = submit()
    taken = claim(worker("cpu:0"), lease_seconds=-1)
    assert taken is not None
    Attempts(database).renew(job.id, taken.token, 60)
    assert Attempts(database).expire(NOW) == []


def test_attempts_that_are_spent_fail_the_job_with_the_last_cause(
    database: Database, caller: Caller, submit: Submit, worker: Join, claim: Take
) -> None:
    job = submit(max_attempts=2)
    for _ in range(2):
        taken = claim(worker("cpu:0"))
        assert taken is not None
        Attempts(database).lose(job.id, taken.token, ReasonCode.WORKER_LOST, "power cut", Retry(0.0, 0.0))
    ended = Jobs(database).get(caller.project_id, job.id)
    assert ended.status is Status.FAILED
    assert ended.reason is not None
    assert ended.reason["code"] == "max_attempts"
    assert "power cut" in ended.reason["message"]
    assert types(database, job.id)[-2:] == ["attempt_lost", "failed"]


def test_a_preempted_attempt_costs_none_and_waits_for_nothing(
    database: Database, submit: Submit, worker: Join, claim: Take
) -> None:
    job = submit(max_attempts=1)
    for number in (1, 2, 3):
        taken = claim(worker("cpu:0"))
        assert taken is not None
        assert taken.attempt == number
        status = Attempts(database).lose(job.id, taken.token, ReasonCode.PREEMPTED, "drained", LATER)
        assert status is Status.QUEUED


def test_a_lost_attempt_backs_off(database: Database, submit: Submit, worker: Join, claim: Take) -> None:
    job = submit()
    taken = claim(worker("cpu:0"))
    assert taken is not None
    Attempts(database).lose(job.id, taken.token, ReasonCode.WORKER_LOST, "gone", LATER)
    assert claim(worker("cpu:0")) is None


def test_a_lost_attempt_of_a_job_to_be_cancelled_ends_cancelled(
    database: Database, caller: Caller, submit: Submit, worker: Join, claim: Take
) -> None:
    job = submit()
    taken = claim(worker("cpu:0"))
    assert taken is not None
    Jobs(database).cancel(caller.project_id, job.id)
    assert Attempts(database).orders(job.id, taken.token).cancel
    status = Attempts(database).lose(job.id, taken.token, ReasonCode.WORKER_LOST, "gone", NOW)
    assert status is Status.CANCELLED


def test_the_wait_between_attempts_doubles_up_to_its_limit() -> None:
    retry = Retry(first_seconds=1.0, longest_seconds=5.0)
    assert [retry.delay(spent).total_seconds() for spent in (1, 2, 3, 4, 50)] == [1.0, 2.0, 4.0, 5.0, 5.0]


def test_a_further_attempt_says_where_it_started_and_what_was_lost(
    database: Database, caller: Caller, submit: Submit, worker: Join, claim: Take
) -> None:
    job, store = submit(), Attempts(database)
    box = worker("cpu:0")
    for started_from in (None, "ckpt_1"):
        taken = claim(box)
        assert taken is not None
        store.start_from(job.id, taken.token, started_from, 7)
        store.lose(job.id, taken.token, ReasonCode.PREEMPTED, "drained", NOW)
    tries = Jobs(database).get(caller.project_id, job.id).attempts_list
    assert [(one.resume, one.resumed_from, one.steps_lost) for one in tries] == [
        ("restart", None, 7),
        ("exact", "ckpt_1", 7),
    ]
    with pytest.raises(LeaseLost):
        store.start_from(job.id, "an old token", None, 0)
