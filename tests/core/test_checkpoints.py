from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from core.attempts import Attempts, Retry
from core.checkpoints import Artifact, Artifacts, Checkpoint, Checkpoints
from core.claims import Claim
from core.database import Database
from core.errors import Conflict, LeaseLost, NotFound, Unavailable
from core.events import Events
from core.ids import new_id
from core.job import Job
from core.jobs import Jobs
from core.security import Caller
from core.states import ReasonCode
from core.storage import Store

AT = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture
def running(submit: Callable[..., Job], worker: Callable[..., str], claim: Callable[..., Claim]) -> Claim:
    submit()
    return claim(worker("cpu:0"))


def checkpoint(held: Claim, name: str, *, best: bool = False) -> Checkpoint:
    made = new_id("ckpt")
    return Checkpoint(
        id=made,
        job_id=held.job.id,
        attempt=held.attempt,
        kind="model_checkpoint",
        name=name,
        step=3,
        epoch=1,
        metrics={"val_acc": 0.5},
        size_bytes=4,
        sha256="0" * 64,
        storage_key=f"jobs/{held.job.id}/checkpoints/{made}.ckpt",
        pinned=False,
        created_at=AT,
        is_best=best,
        is_last=True,
    )


def test_a_published_checkpoint_is_listed_with_its_part_and_its_event(
    database: Database, caller: Caller, running: Claim
) -> None:
    store = Checkpoints(database)
    best, last = checkpoint(running, "a.ckpt", best=True), checkpoint(running, "b.ckpt")
    store.publish(running.token, best)
    store.publish(running.token, last)
    listed = store.page(caller.project_id, running.job.id)
    assert {found.id: (found.is_best, found.is_last) for found in listed} == {
        best.id: (True, False),
        last.id: (False, True),
    }
    job = Jobs(database).get(caller.project_id, running.job.id)
    assert (job.best_checkpoint_id, job.last_checkpoint_id) == (best.id, last.id)
    saved = [event for event in Events(database).after(job.id, 0, 10) if event.type == "checkpoint_saved"]
    assert [event.data["checkpoint_id"] for event in saved] == [best.id, last.id]


def test_a_file_of_the_same_name_replaces_the_old_unless_that_is_pinned(
    database: Database, caller: Caller, running: Claim, tmp_path: Path
) -> None:
    store = Checkpoints(database)
    first, second, third = (checkpoint(running, "last.ckpt") for _ in range(3))
    store.publish(running.token, first)
    (old,) = store.publish(running.token, second)
    assert old.id == first.id
    assert store.forget(old, Store(f"file://{tmp_path}"), token=running.token)
    store.pin(caller.project_id, second.id, pinned=True)
    assert store.publish(running.token, third) == []
    assert not store.forget(second, Store(f"file://{tmp_path}"), token=running.token), "it is pinned"
    assert {found.id for found in store.page(caller.project_id, running.job.id)} == {second.id, third.id}


def test_publishing_again_what_a_lost_answer_left_in_doubt_changes_nothing(
    database: Database, caller: Caller, running: Claim
) -> None:
    store = Checkpoints(database)
    old, new = checkpoint(running, "last.ckpt"), checkpoint(running, "last.ckpt")
    store.publish(running.token, old)
    for _ in range(2):
        assert [one.id for one in store.publish(running.token, new)] == [old.id], "never itself"
    assert {one.id for one in store.page(caller.project_id, running.job.id)} == {old.id, new.id}
    saved = [event for event in Events(database).after(running.job.id, 0, 10) if event.type == "checkpoint_saved"]
    assert len(saved) == 2
    artifact = Artifact(new_id("art"), running.job.id, 1, "a.txt", "text/plain", 1, "0" * 64, "key", AT)
    for _ in range(2):
        assert Artifacts(database).publish(running.token, artifact) == []
    assert [one.id for one in Artifacts(database).page(running.job.id)] == [artifact.id]


def test_the_newest_is_that_of_the_latest_step_whatever_the_clock_said(database: Database, running: Claim) -> None:
    store = Checkpoints(database)
    for step, made in ((30, "ckpt_0a"), (20, "ckpt_0b"), (10, "ckpt_0c")):
        store.publish(running.token, replace(checkpoint(running, f"r{step}"), id=made, kind="recovery", step=step))
    assert [one.step for one in store.of_kind(running.job.id, "recovery")] == [30, 20, 10]


def test_while_the_store_is_away_a_checkpoint_is_not_deleted(
    database: Database, caller: Caller, running: Claim, tmp_path: Path
) -> None:
    files, store = Store(f"file://{tmp_path}/store"), Checkpoints(database)
    made = checkpoint(running, "a.ckpt")
    (tmp_path / "source").write_bytes(b"data")
    files.put(tmp_path / "source", made.storage_key)
    store.publish(running.token, made)
    elsewhere = files.root.rename(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="away"):
        store.forget(made, files, token=running.token)
    with pytest.raises(Unavailable):
        store.delete(caller.project_id, made.id, files)
    assert store.get(caller.project_id, made.id).id == made.id
    elsewhere.rename(files.root)
    store.delete(caller.project_id, made.id, files)
    assert not files.path(made.storage_key).exists()


def test_a_zombie_publishes_nothing(database: Database, caller: Caller, running: Claim) -> None:
    Attempts(database).lose(running.job.id, running.token, ReasonCode.WORKER_LOST, "gone", Retry(1, 1))
    with pytest.raises(LeaseLost):
        Checkpoints(database).publish(running.token, checkpoint(running, "a.ckpt"))
    assert Checkpoints(database).page(caller.project_id, running.job.id) == []


def test_deleting_takes_the_file_the_row_and_the_jobs_pointer_but_never_a_pinned_one(
    database: Database, caller: Caller, running: Claim, tmp_path: Path
) -> None:
    files, store = Store(f"file://{tmp_path}/store"), Checkpoints(database)
    made = checkpoint(running, "a.ckpt", best=True)
    (tmp_path / "source").write_bytes(b"data")
    files.put(tmp_path / "source", made.storage_key)
    store.publish(running.token, made)
    store.pin(caller.project_id, made.id, pinned=True)
    with pytest.raises(Conflict):
        store.delete(caller.project_id, made.id, files)
    store.pin(caller.project_id, made.id, pinned=False)
    store.delete(caller.project_id, made.id, files)
    assert not files.path(made.storage_key).exists()
    with pytest.raises(NotFound):
        store.get(caller.project_id, made.id)
    assert Jobs(database).get(caller.project_id, running.job.id).best_checkpoint_id is None


def test_an_artifact_is_found_by_its_name_and_replaced_by_a_later_one(database: Database, running: Claim) -> None:
    store = Artifacts(database)
    for size in (1, 2):
        store.publish(
            running.token,
            Artifact(
                id=new_id("art"),
                job_id=running.job.id,
                attempt=1,
                name="reports/profile.txt",
                media_type="text/plain",
                size_bytes=size,
                sha256="0" * 64,
                storage_key=f"k{size}",
                created_at=AT,
            ),
        )
    assert [found.size_bytes for found in store.page(running.job.id)] == [2]
    assert store.get(running.job.id, "reports/profile.txt").storage_key == "k2"
    with pytest.raises(NotFound):
        store.get(running.job.id, "other")
