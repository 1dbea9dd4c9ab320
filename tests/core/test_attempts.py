from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import update

from core.attempts import Attempts, Retry
from core.checkpoints import Checkpoint, Checkpoints
from core.claims import Claim
from core.database import Database
from core.errors import LeaseLost
from core.events import Events
from core.ids import new_id
from core.job import Job
from core.jobs import Jobs
from core.orders import Orders
from core.security import Caller
from core.states import CheckpointKind, ReasonCode, Status
from core.tables import attempts

Submit = Callable[..., Job]
Join = Callable[..., str]
Take = Callable[..., Claim | None]

NOW = Retry(0.0001, 1.0)
LATER = Retry(60.0, 60.0)


def types(database: Database, job_id: str) -> list[str]:
    return [event.type for event in Events(database).after(job_id, 0, 100)]


def save(database: Database, claim: Claim, step: int, kind: CheckpointKind = CheckpointKind.RECOVERY) -> str:
    """Publish a checkpoint of an attempt; returns its id."""
    row = Checkpoint(
        id=new_id("ckpt"),
        job_id=claim.job.id,
        attempt=claim.attempt,
        kind=kind,
        name=f"{kind}-{step}.ckpt",
        step=step,
        epoch=0,
        metrics={},
        size_bytes=1,
        sha256="0" * 64,
        storage_key="key",
        pinned=False,
        created_at=datetime.now(UTC),
    )
    Checkpoints(database).publish(claim.token, row)
    return row.id


def test_an_expired_lease_requeues_the_job_and_the_zombie_can_write_nothing(
    database: Database, caller: Caller, submit: Submit, worker: Join, claim: Take
) -> None:
    job = submit()
    store = Attempts(database)
    zombie = claim(worker("cpu:0"))
    assert zombie is not None
    (lease,) = store.leases()
    assert store.expire(lease, LATER) is Status.QUEUED
    assert store.expire(lease, LATER) is None
    assert store.leases() == []
    with pytest.raises(LeaseLost):
        store.renew(job.id, zombie.token)
    with pytest.raises(LeaseLost):
        store.orders(job.id, zombie.token)
    with pytest.raises(LeaseLost):
        store.tell(job.id, zombie.token, "first_step")
    with pytest.raises(LeaseLost):
        store.finish(job.id, zombie.token, Status.SUCCEEDED)
    with pytest.raises(LeaseLost):
        store.stopped(job.id, zombie.token, "late", saved=True)
    with pytest.raises(LeaseLost):
        save(database, zombie, 1)
    again = claim(worker("cpu:0"))
    assert again is not None, "after the wait of a lease there is no other"
    assert (again.job.id, again.attempt) == (job.id, 2)
    assert again.token != zombie.token
    assert types(database, job.id) == ["created", "claimed", "attempt_lost", "requeued", "claimed"]
    tries = Jobs(database).get(caller.project_id, job.id).attempts_list
    assert [(one.number, one.outcome, one.resume) for one in tries] == [(1, "worker_lost", None), (2, None, None)]


def test_a_job_whose_workers_go_silent_again_and_again_backs_off(
    database: Database, submit: Submit, worker: Join, claim: Take
) -> None:
    submit()
    for _ in range(2):
        assert claim(worker("cpu:0")) is not None
        (lease,) = Attempts(database).leases()
        Attempts(database).expire(lease, LATER)
    assert claim(worker("cpu:0")) is None


def test_a_lease_that_was_renewed_since_it_was_read_does_not_expire(
    database: Database, submit: Submit, worker: Join, claim: Take
) -> None:
    job = submit()
    store = Attempts(database)
    taken = claim(worker("cpu:0"), lease_seconds=7.0)
    assert taken is not None
    (lease,) = store.leases()
    assert (lease.job_id, lease.number, lease.worker, lease.seconds) == (job.id, 1, "box", 7.0)
    store.renew(job.id, taken.token)
    assert store.expire(lease, NOW) is None
    (renewed,) = store.leases()
    assert renewed.renewals == lease.renewals + 1
    assert store.expire(renewed, NOW) is Status.QUEUED


def test_a_lease_expires_as_well_when_the_attempts_are_spent_or_the_job_is_to_pause_or_end(
    database: Database, caller: Caller, submit: Submit, worker: Join, claim: Take
) -> None:
    jobs, store = Jobs(database), Attempts(database)
    submit(max_attempts=1)
    jobs.pause(caller.project_id, submit().id)
    jobs.cancel(caller.project_id, submit().id)
    waiting = [job.id for job in jobs.page(caller.project_id, statuses=["paused"])]
    jobs.resume(caller.project_id, waiting[0])
    pausing, ended = submit(), submit()
    for _ in range(4):
        assert claim(worker("cpu:0")) is not None
    jobs.pause(caller.project_id, pausing.id)
    jobs.cancel(caller.project_id, ended.id)
    moved = {lease.job_id: store.expire(lease, NOW) for lease in store.leases()}
    assert moved[pausing.id] is Status.PAUSED
    assert moved[ended.id] is Status.CANCELLED
    assert sorted(map(str, moved.values())) == ["cancelled", "failed", "paused", "queued"]


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


def test_a_preempted_job_goes_on_even_when_fewer_attempts_are_allowed_by_now(
    database: Database, caller: Caller, submit: Submit, worker: Join, claim: Take
) -> None:
    job = submit(max_attempts=3)
    for _ in range(2):
        taken = claim(worker("cpu:0"))
        assert taken is not None
        Attempts(database).lose(job.id, taken.token, ReasonCode.WORKER_LOST, "gone", Retry(0.0, 0.0))
    taken = claim(worker("cpu:0"))
    assert taken is not None
    Jobs(database).patch(caller.project_id, job.id, None, {"max_attempts": 1})
    assert Attempts(database).stopped(job.id, taken.token, "drained", saved=True) is Status.QUEUED


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
    assert [retry.delay(spent).total_seconds() for spent in (0, 1, 2, 3, 4, 50)] == [0.0, 1.0, 2.0, 4.0, 5.0, 5.0]


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
        (None, "ckpt_1", 7),
    ], "how exactly an attempt goes on from a checkpoint, its trainer says"
    with pytest.raises(LeaseLost):
        store.start_from(job.id, "an old token", None, 0)


@pytest.mark.parametrize("saved", [True, False])
@pytest.mark.parametrize(
    ("asked", "status", "outcome"),
    [
        (("cancel",), Status.CANCELLED, "cancelled"),
        (("pause",), Status.PAUSED, "paused"),
        (("pause", "cancel"), Status.CANCELLED, "cancelled"),
        (("pause", "resume"), Status.QUEUED, "preempted"),
        ((), Status.QUEUED, "preempted"),
    ],
)
def test_a_stopped_attempt_takes_its_job_where_it_is_asked_to_go_by_then(
    database: Database,
    caller: Caller,
    submit: Submit,
    worker: Join,
    claim: Take,
    asked: tuple[str, ...],
    status: Status,
    outcome: str,
    saved: bool,
) -> None:
    job, jobs = submit(max_attempts=1), Jobs(database)
    taken = claim(worker("cpu:0"))
    assert taken is not None
    for action in asked:
        getattr(jobs, action)(caller.project_id, job.id)
    assert Attempts(database).stopped(job.id, taken.token, "asked to", saved=saved) is status
    went = jobs.get(caller.project_id, job.id)
    assert (went.status, went.token, went.phase) == (status, None, None)
    assert (went.pause_requested_at, went.checkpoint_requested_at) == (None, None)
    (attempt,) = went.attempts_list
    assert attempt.outcome == outcome
    assert attempt.ended_at is not None
    assert (went.finished_at is not None) == (status is Status.CANCELLED)
    assert ("stopped" in types(database, job.id)) == saved
    assert types(database, job.id)[-1] == ("requeued" if status is Status.QUEUED else str(status))
    if status is not Status.CANCELLED:
        assert went.attempts_spent == 0, "it costs no attempt"
    assert not Attempts(database).leases()


def test_a_job_may_be_paused_more_often_than_it_may_be_lost(
    database: Database, caller: Caller, submit: Submit, worker: Join, claim: Take
) -> None:
    job, jobs = submit(max_attempts=2), Jobs(database)
    box = worker("cpu:0")
    for number in (1, 2, 3):
        taken = claim(box)
        assert taken is not None
        assert taken.attempt == number
        jobs.pause(caller.project_id, job.id)
        assert Attempts(database).stopped(job.id, taken.token, "paused", saved=True) is Status.PAUSED
        assert claim(box) is None, "what is paused is not in the queue"
        jobs.resume(caller.project_id, job.id)
    taken = claim(box)
    assert taken is not None
    assert Attempts(database).lose(job.id, taken.token, ReasonCode.WORKER_LOST, "gone", NOW) is Status.QUEUED


def test_a_worker_learns_what_is_asked_of_its_job(
    database: Database, caller: Caller, submit: Submit, worker: Join, claim: Take
) -> None:
    job, jobs, store = submit(max_memory_bytes=5, retry_oom=True), Jobs(database), Attempts(database)
    taken = claim(worker("cpu:0"))
    assert taken is not None
    first = Orders(max_seconds=60.0, max_memory_bytes=5, retry_oom=True)
    assert store.orders(job.id, taken.token) == first == Orders.at_claim(taken.job)
    assert not first.stop
    jobs.request_checkpoint(caller.project_id, job.id)
    assert store.renew(job.id, taken.token).saves == 1
    jobs.pause(caller.project_id, job.id)
    orders = store.renew(job.id, taken.token)
    assert (orders.pause, orders.stop, orders.cancel) == (True, True, False)
    jobs.resume(caller.project_id, job.id)
    assert not store.orders(job.id, taken.token).stop
    jobs.patch(caller.project_id, job.id, None, {"retry_oom": False, "max_seconds": 9.0})
    orders = store.orders(job.id, taken.token)
    assert (orders.retry_oom, orders.max_seconds) == (False, 9.0)


def test_what_was_asked_before_a_claim_is_not_asked_of_the_next_attempt(
    database: Database, caller: Caller, submit: Submit, worker: Join, claim: Take
) -> None:
    job, jobs, store = submit(), Jobs(database), Attempts(database)
    box = worker("cpu:0")
    taken = claim(box)
    assert taken is not None
    jobs.request_checkpoint(caller.project_id, job.id)
    store.lose(job.id, taken.token, ReasonCode.PREEMPTED, "drained", NOW)
    again = claim(box)
    assert again is not None
    assert again.job.checkpoint_requested_at is None
    assert Orders.at_claim(again.job).saves == 1, "its trainer saves when the count grows beyond this"


def test_a_requested_checkpoint_answers_the_request_and_the_next_may_follow(
    database: Database, caller: Caller, submit: Submit, worker: Join, claim: Take
) -> None:
    job, jobs = submit(), Jobs(database)
    taken = claim(worker("cpu:0"))
    assert taken is not None
    asked = jobs.request_checkpoint(caller.project_id, job.id)
    assert asked.checkpoint_requested_at is not None
    save(database, taken, 5)
    assert jobs.get(caller.project_id, job.id).checkpoint_requested_at is not None, "a recovery is another thing"
    save(database, taken, 6, CheckpointKind.REQUESTED)
    assert jobs.get(caller.project_id, job.id).checkpoint_requested_at is None
    assert jobs.request_checkpoint(caller.project_id, job.id).checkpoint_requests == 2


@pytest.mark.parametrize("how", ["stopped", "lost", "expired", "paused before", "queued before"])
def test_a_cancelled_job_keeps_its_newest_recovery_checkpoint_as_its_last(
    database: Database, caller: Caller, submit: Submit, worker: Join, claim: Take, how: str
) -> None:
    job, jobs, store = submit(), Jobs(database), Attempts(database)
    taken = claim(worker("cpu:0"))
    assert taken is not None
    _, newest = save(database, taken, 10), save(database, taken, 20)
    if how == "queued before":
        store.lose(job.id, taken.token, ReasonCode.PREEMPTED, "drained", NOW)
    if how == "paused before":
        jobs.pause(caller.project_id, job.id)
        store.stopped(job.id, taken.token, "paused", saved=True)
    jobs.cancel(caller.project_id, job.id)
    ways: dict[str, Callable[[], Any]] = {
        "stopped": lambda: store.stopped(job.id, taken.token, "cancelled", saved=True),
        "lost": lambda: store.lose(job.id, taken.token, ReasonCode.WORKER_LOST, "gone", NOW),
        "expired": lambda: store.expire(store.leases()[0], NOW),
    }
    if how in ways:
        ways[how]()
    ended = jobs.get(caller.project_id, job.id)
    assert (ended.status, ended.last_checkpoint_id) == (Status.CANCELLED, newest)
    found = {one.id: (one.kind, one.name) for one in Checkpoints(database).page(caller.project_id, job.id)}
    assert found == {newest: ("stop", "stop-20.ckpt")}
    assert Checkpoints(database).page(caller.project_id, job.id)[0].is_last


def test_what_a_job_saved_to_go_on_from_goes_in_the_moment_in_which_it_has_succeeded(
    database: Database, caller: Caller, submit: Submit, worker: Join, claim: Take
) -> None:
    for status, kept in ((Status.SUCCEEDED, 1), (Status.FAILED, 2)):
        job = submit()
        taken = claim(worker("cpu:0"))
        assert taken is not None
        save(database, taken, 10)
        own = save(database, taken, 20, CheckpointKind.MODEL_CHECKPOINT)
        keys = Attempts(database).finish(job.id, taken.token, status)
        left = Checkpoints(database).page(caller.project_id, job.id)
        assert len(keys) == 2 - kept
        assert len(left) == kept
        assert own in {one.id for one in left}


def test_hours_for_which_nobody_renewed_the_lease_are_no_running_time(
    database: Database, caller: Caller, submit: Submit, worker: Join, claim: Take
) -> None:
    job = submit(max_seconds=3600.0)
    taken = claim(worker("cpu:0"), lease_seconds=15.0)
    assert taken is not None
    Attempts(database).renew(job.id, taken.token)
    with database.write() as connection:
        long_ago = database.now(connection) - timedelta(hours=8)
        connection.execute(update(attempts).values(started_at=long_ago))
    Attempts(database).lose(job.id, taken.token, ReasonCode.WORKER_LOST, "the machine was down", NOW)
    assert Jobs(database).get(caller.project_id, job.id).seconds_spent == pytest.approx(25.0)


def test_a_job_that_is_cancelled_without_a_recovery_checkpoint_keeps_the_last_of_its_own(
    database: Database, caller: Caller, submit: Submit, worker: Join, claim: Take
) -> None:
    job, jobs = submit(), Jobs(database)
    taken = claim(worker("cpu:0"))
    assert taken is not None
    own = save(database, taken, 3, CheckpointKind.MODEL_CHECKPOINT)
    Checkpoints(database).point(job.id, taken.token, best=None, last=own)
    jobs.cancel(caller.project_id, job.id)
    Attempts(database).stopped(job.id, taken.token, "cancelled", saved=False)
    assert jobs.get(caller.project_id, job.id).last_checkpoint_id == own
