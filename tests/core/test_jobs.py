from collections.abc import Callable

import pytest

from core.attempts import Attempts, Retry
from core.claims import Claim
from core.database import Database
from core.errors import Conflict, NotFound, PreconditionFailed
from core.events import Events
from core.job import Job
from core.jobs import Jobs
from core.queue import Queue
from core.security import Caller
from core.states import ReasonCode, Status

Submit = Callable[..., Job]
Join = Callable[..., str]
Take = Callable[..., Claim]


def types(database: Database, job_id: str) -> list[str]:
    return [event.type for event in Events(database).after(job_id, 0, 100)]


def test_a_new_job_is_queued_at_version_one_with_its_event(database: Database, submit: Submit) -> None:
    job = submit(name="n", labels={"team": "vision"})
    assert (job.status, job.version, job.attempt, job.labels) == (Status.QUEUED, 1, 0, {"team": "vision"})
    assert [event.type for event in Events(database).after(job.id, 0, 10)] == ["created"]


def test_another_projects_job_looks_like_none(database: Database, submit: Submit) -> None:
    job = submit()
    with pytest.raises(NotFound):
        Jobs(database).get("proj_other", job.id)
    for action in ("cancel", "pause", "resume", "request_checkpoint"):
        with pytest.raises(NotFound):
            getattr(Jobs(database), action)("proj_other", job.id)
    assert Jobs(database).look_up(job.id) == job


def test_pages_follow_each_other_newest_first_without_gap_or_double(
    database: Database, caller: Caller, submit: Submit
) -> None:
    made = sorted((submit().id for _ in range(7)), reverse=True)
    seen: list[str] = []
    while page := Jobs(database).page(caller.project_id, after_id=seen[-1] if seen else None, limit=3):
        seen += [job.id for job in page]
    assert seen == made
    oldest = Jobs(database).page(caller.project_id, oldest_first=True, limit=2)
    assert [job.id for job in oldest] == sorted(made)[:2]


def test_pages_filter_by_status_name_and_label(database: Database, caller: Caller, submit: Submit) -> None:
    store = Jobs(database)
    red = submit(name="a", labels={"colour": "red", "n": "1"})
    submit(name="b", labels={"colour": "blue", "n": "1"})
    store.cancel(caller.project_id, red.id)
    assert [job.id for job in store.page(caller.project_id, labels={"colour": "red", "n": "1"})] == [red.id]
    assert [job.id for job in store.page(caller.project_id, statuses=["cancelled", "failed"])] == [red.id]
    assert [job.name for job in store.page(caller.project_id, name="b")] == ["b"]
    assert store.page(caller.project_id, labels={"colour": "red", "n": "2"}) == []


def test_cancelling_a_queued_job_ends_it_and_repeating_changes_nothing(
    database: Database, caller: Caller, submit: Submit
) -> None:
    job = submit()
    first = Jobs(database).cancel(caller.project_id, job.id)
    again = Jobs(database).cancel(caller.project_id, job.id)
    assert first.status is Status.CANCELLED
    assert first.finished_at is not None
    assert again == first


def test_cancelling_a_running_job_asks_its_worker_and_force_may_follow(
    database: Database, caller: Caller, submit: Submit, worker: Callable[..., str], claim: Callable[..., Claim]
) -> None:
    job = submit()
    taken = claim(worker("cpu:0"))
    asked = Jobs(database).cancel(caller.project_id, job.id)
    assert asked.status is Status.RUNNING
    assert asked.cancel_requested_at is not None
    orders = Attempts(database).renew(job.id, taken.token)
    assert (orders.cancel, orders.force) == (True, False)
    forced = Jobs(database).cancel(caller.project_id, job.id, force=True)
    assert forced.cancel_requested_at == asked.cancel_requested_at
    assert Attempts(database).orders(job.id, taken.token).force


@pytest.mark.parametrize("action", ["cancel", "pause", "resume", "request_checkpoint"])
@pytest.mark.parametrize("status", [Status.SUCCEEDED, Status.FAILED, Status.CANCELLED])
def test_of_a_job_that_has_ended_nothing_can_be_asked(
    database: Database, caller: Caller, submit: Submit, worker: Join, claim: Take, status: Status, action: str
) -> None:
    job = submit()
    taken = claim(worker("cpu:0"))
    Attempts(database).finish(job.id, taken.token, status, {"code": "user_error", "message": "m"})
    ended = Jobs(database).get(caller.project_id, job.id)
    if (action, status) == ("cancel", Status.CANCELLED):
        assert Jobs(database).cancel(caller.project_id, job.id) == ended
        return
    with pytest.raises(Conflict) as refused:
        getattr(Jobs(database), action)(caller.project_id, job.id)
    assert refused.value.code == "invalid_transition"
    assert refused.value.extra == {"status": str(status), "allowed_actions": ["retry", "delete"]}
    assert Jobs(database).get(caller.project_id, job.id) == ended


def test_a_queued_job_is_paused_at_once_and_resumed_into_the_queue(
    database: Database, caller: Caller, submit: Submit, worker: Join, claim: Take
) -> None:
    job, store = submit(), Jobs(database)
    paused = store.pause(caller.project_id, job.id)
    assert (paused.status, paused.pause_requested_at) == (Status.PAUSED, None)
    assert store.pause(caller.project_id, job.id) == paused, "asking again changes nothing"
    assert claim(worker("cpu:0")) is None
    resumed = store.resume(caller.project_id, job.id)
    assert resumed.status is Status.QUEUED
    assert store.resume(caller.project_id, job.id) == resumed
    assert job.version < paused.version < resumed.version
    assert types(database, job.id) == ["created", "paused", "unpaused"]
    assert claim(worker("cpu:0")) is not None


def test_pausing_a_running_job_is_a_request_that_can_be_taken_back(
    database: Database, caller: Caller, submit: Submit, worker: Join, claim: Take
) -> None:
    submit()
    taken, store = claim(worker("cpu:0")), Jobs(database)
    asked = store.pause(caller.project_id, taken.job.id)
    assert asked.status is Status.RUNNING
    assert asked.pause_requested_at is not None
    assert store.pause(caller.project_id, taken.job.id) == asked
    back = store.resume(caller.project_id, taken.job.id)
    assert (back.status, back.pause_requested_at) == (Status.RUNNING, None)
    assert store.resume(caller.project_id, taken.job.id) == back, "there is nothing left to take back"
    assert taken.job.version < asked.version < back.version
    assert types(database, taken.job.id) == ["created", "claimed", "pause_requested", "pause_withdrawn"]


def test_a_paused_job_that_is_resumed_waits_for_no_backoff(
    database: Database, caller: Caller, submit: Submit, worker: Join, claim: Take
) -> None:
    submit()
    taken, store = claim(worker("cpu:0")), Jobs(database)
    Attempts(database).lose(taken.job.id, taken.token, ReasonCode.WORKER_LOST, "gone", Retry(600.0, 600.0))
    assert claim(worker("cpu:0")) is None
    store.pause(caller.project_id, taken.job.id)
    store.resume(caller.project_id, taken.job.id)
    assert claim(worker("cpu:0")) is not None


def test_a_job_that_is_to_be_cancelled_is_neither_paused_nor_resumed(
    database: Database, caller: Caller, submit: Submit, worker: Join, claim: Take
) -> None:
    submit()
    taken, store = claim(worker("cpu:0")), Jobs(database)
    store.pause(caller.project_id, taken.job.id)
    asked = store.cancel(caller.project_id, taken.job.id)
    assert asked.pause_requested_at is not None
    for action in (store.pause, store.resume):
        with pytest.raises(Conflict, match="running and to be cancelled") as refused:
            action(caller.project_id, taken.job.id)
        assert refused.value.extra == {"status": "running", "allowed_actions": ["cancel", "checkpoints"]}
    assert store.get(caller.project_id, taken.job.id) == asked


def test_a_paused_job_is_cancelled_at_once(database: Database, caller: Caller, submit: Submit) -> None:
    job, store = submit(), Jobs(database)
    store.pause(caller.project_id, job.id)
    ended = store.cancel(caller.project_id, job.id)
    assert ended.status is Status.CANCELLED
    assert ended.reason == {"code": "cancelled_by_user", "message": "cancelled while it waited to run"}
    assert types(database, job.id) == ["created", "paused", "cancelled"]


def test_a_checkpoint_is_asked_for_once_until_it_is_there(
    database: Database, caller: Caller, submit: Submit, worker: Join, claim: Take
) -> None:
    submit()
    taken, store = claim(worker("cpu:0")), Jobs(database)
    asked = store.request_checkpoint(caller.project_id, taken.job.id)
    assert asked.checkpoint_requested_at is not None
    assert (asked.checkpoint_requests, asked.version) == (1, taken.job.version + 1)
    assert store.request_checkpoint(caller.project_id, taken.job.id) == asked
    assert types(database, taken.job.id) == ["created", "claimed", "checkpoint_requested"]


def test_only_a_running_job_saves_a_checkpoint(database: Database, caller: Caller, submit: Submit) -> None:
    job, store = submit(), Jobs(database)
    for status, allowed in (("queued", ["cancel", "pause"]), ("paused", ["cancel", "resume"])):
        with pytest.raises(Conflict) as refused:
            store.request_checkpoint(caller.project_id, job.id)
        assert refused.value.extra == {"status": status, "allowed_actions": allowed}
        store.pause(caller.project_id, job.id)


def test_a_patch_needs_the_newest_version_and_changes_labels_for_filters_too(
    database: Database, caller: Caller, submit: Submit
) -> None:
    job = submit(labels={"a": "1"})
    store = Jobs(database)
    changed = store.patch(caller.project_id, job.id, job.version, {"labels": {"a": "2"}, "priority": 7})
    assert (changed.labels, changed.priority, changed.version) == ({"a": "2"}, 7, job.version + 1)
    assert store.page(caller.project_id, labels={"a": "1"}) == []
    assert [found.id for found in store.page(caller.project_id, labels={"a": "2"})] == [job.id]
    with pytest.raises(PreconditionFailed):
        store.patch(caller.project_id, job.id, job.version, {"priority": 1})


def test_only_a_job_that_has_ended_is_deleted_files_before_rows(
    database: Database, caller: Caller, submit: Submit
) -> None:
    job = submit()
    store = Jobs(database)
    removed: list[str] = []
    with pytest.raises(Conflict):
        store.delete(caller.project_id, job.id, removed.append)
    store.cancel(caller.project_id, job.id)

    def fail(job_id: str) -> None:
        raise OSError("the disk is away")

    with pytest.raises(OSError, match="away"):
        store.delete(caller.project_id, job.id, fail)
    assert store.get(caller.project_id, job.id).id == job.id, "the row goes last"
    store.delete(caller.project_id, job.id, removed.append)
    assert removed == [job.id]
    with pytest.raises(NotFound):
        store.get(caller.project_id, job.id)


def test_a_queued_job_says_what_it_waits_for(database: Database, submit: Submit, worker: Callable[..., str]) -> None:
    queue = Queue(database)
    first, second, large = submit(), submit(), submit(accelerator="gpu", devices=8)
    assert queue.waiting(first, 60).reason == "no worker is up"
    worker("cpu:0")
    assert queue.waiting(first, 60).position == 0
    assert queue.waiting(second, 60).position == 1
    assert "ahead" in queue.waiting(second, 60).reason
    assert "gpu" in queue.waiting(large, 60).reason


def test_a_place_far_back_in_the_queue_is_told_as_one_at_its_head_is(
    database: Database, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.queue.COUNTED_MAX", 2)
    monkeypatch.setattr("core.queue.POSITION_MAX", 4)
    queued = [submit(priority=priority) for priority in (0, 5, 0, -1, 5, 0)]
    order = sorted(queued, key=lambda job: (-job.priority, job.id))
    places = {job.id: min(place, 4) for place, job in enumerate(order)}
    queue = Queue(database)
    assert {job.id: queue.waiting(job, 60).position for job in queued} == places
    told = Queue(database).waiting_of(queued, 60)
    assert {job_id: waiting.position for job_id, waiting in told.items()} == places


def test_the_queue_of_a_project_is_read_on_from_any_place(database: Database, caller: Caller, submit: Submit) -> None:
    queued = [submit(priority=priority) for priority in (0, 5, 0, -1, 5, 0)]
    order = sorted(queued, key=lambda job: (-job.priority, job.id))
    for place, job in enumerate(order):
        behind = Queue(database).queue(caller.project_id, 3, after=(job.priority, job.id))
        assert [one.id for one in behind] == [one.id for one in order[place + 1 : place + 4]]
