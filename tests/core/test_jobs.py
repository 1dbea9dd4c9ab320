from collections.abc import Callable

import pytest

from core.attempts import Attempts
from core.claims import Claim
from core.database import Database
from core.errors import Conflict, NotFound, PreconditionFailed
from core.events import Events
from core.jobs import Job, Jobs
from core.queue import Queue
from core.security import Caller
from core.states import Status

Submit = Callable[..., Job]


def test_a_new_job_is_queued_at_version_one_with_its_event(database: Database, submit: Submit) -> None:
    job = submit(name="n", labels={"team": "vision"})
    assert (job.status, job.version, job.attempt, job.labels) == (Status.QUEUED, 1, 0, {"team": "vision"})
    assert [event.type for event in Events(database).after(job.id, 0, 10)] == ["created"]


def test_another_projects_job_looks_like_none(database: Database, submit: Submit) -> None:
    job = submit()
    with pytest.raises(NotFound):
        Jobs(database).get("proj_other", job.id)
    with pytest.raises(NotFound):
        Jobs(database).cancel("proj_other", job.id)


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
    orders = Attempts(database).renew(job.id, taken.token, 5)
    assert (orders.cancel, orders.force) == (True, False)
    forced = Jobs(database).cancel(caller.project_id, job.id, force=True)
    assert forced.cancel_requested_at == asked.cancel_requested_at
    assert Attempts(database).orders(job.id, taken.token).force


@pytest.mark.parametrize("status", [Status.SUCCEEDED, Status.FAILED])
def test_a_job_that_has_ended_cannot_be_cancelled(
    database: Database,
    caller: Caller,
    submit: Submit,
    worker: Callable[..., str],
    claim: Callable[..., Claim],
    status: Status,
) -> None:
    job = submit()
    taken = claim(worker("cpu:0"))
    Attempts(database).finish(job.id, taken.token, status, {"code": "user_error", "message": "m"})
    with pytest.raises(Conflict) as refused:
        Jobs(database).cancel(caller.project_id, job.id)
    assert refused.value.code == "invalid_transition"
    assert refused.value.extra == {"status": str(status), "allowed_actions": ["retry", "delete"]}


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
