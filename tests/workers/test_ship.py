"""The shipper, on a real database and store, fed as a trainer feeds it."""

import time
from collections.abc import Callable
from datetime import UTC, datetime

from core.attempts import Attempts, Retry
from core.checkpoints import Artifacts, Checkpoint, Checkpoints
from core.claims import Claim
from core.database import Database
from core.events import Events
from core.jobs import Jobs
from core.logs import Logs
from core.metrics import Metrics
from core.security import Caller
from core.states import ReasonCode
from tests.waiting import wait_until
from tests.workers.shipping import Ship
from workers.trainer.spool import ProgressFile


def test_what_the_trainer_reports_arrives_in_order_while_it_runs(
    database: Database, caller: Caller, held: Claim, start: Callable[..., Ship]
) -> None:
    ship = start()
    ship.spool.phase("training")
    ship.spool.event("first_step", at=1_700_000_000.5, global_step=0)
    for step in range(100):
        ship.spool.metrics({"loss": 100.0 - step, "nan": float("nan")}, step, 0)
    ship.spool.flush()
    wait_until(
        lambda: Jobs(database).get(caller.project_id, held.job.id).metrics == {"loss": 1.0, "nan": "NaN"},
        what="the newest metrics are on the job before it ends",
    )
    ProgressFile(ship.run.progress).write(epoch=1, global_step=50, batches=50, max_steps=200)
    ship.finish()
    job = Jobs(database).get(caller.project_id, held.job.id)
    assert job.phase == "training"
    assert job.progress is not None
    assert (job.progress["global_step"], job.progress["fraction"]) == (50, 0.25)
    loss, nan = Metrics(database).summaries(job.id)
    assert (loss.count, loss.last, nan.count, nan.min) == (100, 1.0, 100, None)
    first_step = next(event for event in Events(database).after(job.id, 0, 10) if event.type == "first_step")
    assert first_step.at.timestamp() == 1_700_000_000.5, "the trainer's own time"
    assert job.attempts_list[0].spool_offset == ship.run.spool.stat().st_size


def test_a_checkpoint_is_stored_whole_hashed_and_taken_out_of_the_outbox(
    database: Database, caller: Caller, held: Claim, start: Callable[..., Ship]
) -> None:
    ship = start()
    ship.save("a.ckpt", b"first", 1, best=True)
    ship.save("last.ckpt", b"second", 2)
    ship.save("last.ckpt", b"third", 3)
    ship.finish()
    found = {one.name: one for one in Checkpoints(database).page(caller.project_id, held.job.id)}
    assert set(found) == {"a.ckpt", "last.ckpt"}
    assert found["a.ckpt"].is_best
    assert found["last.ckpt"].is_last
    assert ship.store.path(found["last.ckpt"].storage_key).read_bytes() == b"third"
    assert not [path for path in ship.run.path.rglob("0*") if path.is_file()], "neither in the outbox nor waiting"
    assert len(list(ship.store.path(f"jobs/{held.job.id}/checkpoints").iterdir())) == 2, "the replaced file is gone"


def test_a_checkpoint_that_the_run_no_longer_keeps_goes_but_not_a_pinned_one(
    database: Database, caller: Caller, held: Claim, start: Callable[..., Ship]
) -> None:
    ship, store = start(), Checkpoints(database)
    ship.save("a.ckpt", b"a", 1)
    ship.save("b.ckpt", b"b", 2)
    listed = wait_until(
        lambda: page if len(page := store.page(caller.project_id, held.job.id)) == 2 else None, what="both are listed"
    )
    pinned = next(one for one in listed if one.name == "b.ckpt")
    store.pin(caller.project_id, pinned.id, pinned=True)
    ship.spool.checkpoint_removed("a.ckpt")
    ship.spool.checkpoint_removed("b.ckpt")
    ship.finish()
    assert [one.id for one in store.page(caller.project_id, held.job.id)] == [pinned.id]
    assert ship.store.path(pinned.storage_key).read_bytes() == b"b"


def test_lines_that_are_not_ours_cost_themselves_alone(
    database: Database, held: Claim, start: Callable[..., Ship]
) -> None:
    ship = start(spool_line_max_bytes=1000)
    junk = [
        b"no json",
        b"[]",
        b'{"is": "metrics"}',
        b'{"is": "metrics", "at": 1, "step": "x", "epoch": 0, "values": {}}',
    ]
    junk += [
        b'{"is": "event", "at": 1e400, "type": 1, "data": {}}',
        b"\xff\xfe",
        b"",
        b"null",
        b'{"is": "what", "at": 1}',
        b'{"is": "metrics", "at": 1, "step": 0, "epoch": 0, "values": [1]}',
        b'{"is": "metrics", "at": 1, "step": 18446744073709551615, "epoch": 0, "values": {"a": 1}}',
        b'{"is": "metrics", "at": 1, "step": 0, "epoch": {}, "values": {"a": 1}}',
        b'{"is": "event", "at": 1, "type": "x", "data": [1]}',
        b'{"is": "phase", "at": 1e30, "phase": "training"}',
        b'{"is": "phase", "at": 1, "phase": "dreaming"}',
        b'{"is": "checkpoint_removed", "at": 1, "name": "../../other"}',
    ]
    with ship.run.spool.open("ab") as file:
        file.write(b"\n".join(junk) + b"\n")
    ship.spool.metrics({"loss": 1.0}, 0, 0)
    ship.spool.flush()
    with ship.run.spool.open("ab") as file:
        file.write(b"x" * 5000)
    with ship.run.spool.open("ab") as file:
        file.write(b"\n")
    ship.spool.event("what", connection=1, job_id="x", at_=2)
    ship.spool.metrics({"nul\0name": 1.0}, 0, 0)
    assert ship.finish()
    assert [(one.name, one.count) for one in Metrics(database).summaries(held.job.id)] == [("loss", 1), ("nul�name", 1)]
    assert Events(database).after(held.job.id, 0, 10)[-1].data == {"connection": 1, "job_id": "x", "at_": 2}
    job = Jobs(database).look_up(held.job.id)
    assert job is not None
    assert job.phase == "starting"


def test_a_line_written_in_two_parts_is_one(database: Database, held: Claim, start: Callable[..., Ship]) -> None:
    ship = start()
    with ship.run.spool.open("ab", buffering=0) as file:
        file.write(b'{"is":"metrics","at":1,"step":0,"epoch":0,')
        wait_until(lambda: ship.shipper.is_alive(), what="the shipper has looked")
        file.write(b'"values":{"loss":2.5}}\n')
    ship.finish()
    assert [one.last for one in Metrics(database).summaries(held.job.id)] == [2.5]


def test_a_log_past_its_limit_is_cut_and_says_so(database: Database, held: Claim, start: Callable[..., Ship]) -> None:
    ship = start(log_max_bytes=200_000)
    with ship.run.log.open("ab") as file:
        for _ in range(10):
            file.write(b"x" * 50_000)
    ship.finish()
    text = Logs(database).read(held.job.id).data
    assert text.count(b"x") >= 200_000
    assert text.endswith(b"the rest is dropped]\n")


def test_artifacts_are_stored_by_name_within_their_limits(
    database: Database, held: Claim, start: Callable[..., Ship]
) -> None:
    ship = start(artifact_max_bytes=100, artifacts_max_count=3)
    (ship.run.artifacts / "report").mkdir()
    (ship.run.artifacts / "report" / "a.txt").write_text("text")
    (ship.run.artifacts / "big.bin").write_bytes(b"x" * 101)
    (ship.run.artifacts / "secret").symlink_to("/etc/passwd")
    ship.finish()
    (found,) = Artifacts(database).page(held.job.id)
    assert (found.name, found.media_type, found.size_bytes) == ("report/a.txt", "text/plain", 4)
    assert ship.store.path(found.storage_key).read_text() == "text"


def test_a_shipper_whose_lease_is_lost_stops_and_leaves_no_file(
    database: Database, held: Claim, start: Callable[..., Ship]
) -> None:
    ship = start()
    Attempts(database).lose(held.job.id, held.token, ReasonCode.WORKER_LOST, "gone", Retry(1, 1))
    ship.save("a.ckpt", b"late", 1)
    wait_until(ship.lost.is_set, what="the shipper notices")
    ship.shipper.abandon()
    assert not list(ship.store.root.rglob("*.ckpt"))


def test_a_store_that_cannot_be_made_is_tried_again_until_it_can(
    database: Database, caller: Caller, held: Claim, start: Callable[..., Ship]
) -> None:
    ship = start()
    ship.store.root.parent.mkdir(parents=True, exist_ok=True)
    ship.store.root.write_text("a file where the store's folder should be")
    ship.save("a.ckpt", b"data", 1)
    wait_until(lambda: ship.shipper.error is not None, what="the shipper cannot store")
    ship.store.root.unlink()
    assert ship.finish()
    assert ship.shipper.error is None
    assert len(Checkpoints(database).page(caller.project_id, held.job.id)) == 1


def test_progress_tells_speed_and_what_is_left(
    database: Database, caller: Caller, held: Claim, start: Callable[..., Ship]
) -> None:
    ship = start()
    progress = ProgressFile(ship.run.progress)

    def told() -> int | None:
        progress_now = Jobs(database).get(caller.project_id, held.job.id).progress
        return progress_now["global_step"] if progress_now else None

    progress.write(epoch=0, global_step=1, batches=1, max_steps=-1)
    wait_until(lambda: told() == 1, what="the first step is told")
    before = time.monotonic()
    progress.write(epoch=0, global_step=101, batches=101, max_steps=-1)
    ship.finish()
    job = Jobs(database).get(caller.project_id, held.job.id)
    assert job.progress is not None
    assert job.progress["max_steps"] is None
    assert job.progress["fraction"] is None
    assert job.progress["steps_per_second"] > 100 / (time.monotonic() - before + 60)


def test_two_callbacks_may_give_the_same_name_in_folders_of_their_own(
    database: Database, caller: Caller, held: Claim, start: Callable[..., Ship]
) -> None:
    ship = start()
    ship.save("a/epoch=0.ckpt", b"a", 1)
    ship.save("b/epoch=0.ckpt", b"b", 2)
    ship.spool.checkpoint_removed("a/epoch=0.ckpt")
    assert ship.finish()
    (left,) = Checkpoints(database).page(caller.project_id, held.job.id)
    assert ship.store.path(left.storage_key).read_bytes() == b"b"


def test_of_recovery_checkpoints_the_newest_two_are_kept_and_none_is_the_last(
    database: Database, caller: Caller, held: Claim, start: Callable[..., Ship]
) -> None:
    ship = start()
    for number in range(5):
        ship.save(f"r{number}", b"x", number, kind="recovery")
    assert ship.finish()
    kept = Checkpoints(database).of_kind(held.job.id, "recovery")
    assert [one.name for one in kept] == ["r4", "r3"]
    assert Jobs(database).get(caller.project_id, held.job.id).last_checkpoint_id is None


def test_what_another_attempt_published_is_not_a_zombies_to_remove(
    database: Database,
    caller: Caller,
    held: Claim,
    start: Callable[..., Ship],
    claim: Callable[..., Claim],
    worker: Callable[..., str],
) -> None:
    ship = start()
    Attempts(database).lose(held.job.id, held.token, ReasonCode.PREEMPTED, "gone", Retry(1, 1))
    successor = claim(worker("cpu:0"))
    (ship.run.path / "new").write_bytes(b"new")
    key = f"jobs/{held.job.id}/checkpoints/new.ckpt"
    ship.store.put(ship.run.path / "new", key)
    new = Checkpoint(
        id="ckpt_new", job_id=held.job.id, attempt=2, kind="model_checkpoint", name="e.ckpt", step=1, epoch=0,
        metrics={},
        size_bytes=3, sha256="0" * 64, storage_key=key, pinned=False, created_at=datetime.now(UTC), is_last=True,
    )  # fmt: skip
    Checkpoints(database).publish(successor.token, new)
    ship.spool.checkpoint_removed("e.ckpt")
    wait_until(ship.lost.is_set, what="the zombie notices")
    ship.shipper.abandon()
    assert [one.id for one in Checkpoints(database).page(caller.project_id, held.job.id)] == ["ckpt_new"]
    assert ship.store.path(key).exists()
