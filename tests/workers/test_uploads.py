"""Uploads while the store is away, full, or the supervisor is another one by now."""

import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from core.attempts import Attempts
from core.checkpoints import Artifacts, Checkpoints
from core.claims import Claim
from core.database import Database
from core.events import Event, Events
from core.jobs import Jobs
from core.logs import Logs
from core.metrics import Metrics
from core.security import Caller
from tests.core.conftest import emptied
from tests.waiting import wait_until
from tests.workers.shipping import Ship
from workers import ship as shipping
from workers import uploads
from workers.records import Saved, record_at


@pytest.fixture
def database(_sqlite: Database) -> Database:
    """One of them: it is the store that fails. Shippers are tested on both in `test_ship`, what they write in core."""
    return emptied(_sqlite)


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "RETRY_SECONDS", 0.05)


def of_type(database: Database, job_id: str, *types: str) -> Sequence[Event]:
    return [event for event in Events(database).after(job_id, 0, 1000) if event.type in types]


def waiting(ship: Ship) -> list[Path]:
    return sorted((ship.run.path / "uploads").iterdir())


def spool_is_read(database: Database, caller: Caller, ship: Ship, held: Claim) -> bool:
    (attempt,) = Jobs(database).get(caller.project_id, held.job.id).attempts_list
    return attempt.spool_offset == ship.run.spool.stat().st_size


def test_while_the_store_is_away_all_else_is_shipped_and_its_files_are_kept_until_it_is_back(
    database: Database, caller: Caller, held: Claim, start: Callable[..., Ship]
) -> None:
    ship = start()
    ship.take_store_away()
    ship.save("a.ckpt", b"a", 1, best=True)
    ship.spool.metrics({"loss": 2.0}, 2, 0)
    ship.spool.flush()
    ship.run.log.write_bytes(b"training goes on\n")
    wait_until(
        lambda: Jobs(database).get(caller.project_id, held.job.id).metrics == {"loss": 2.0},
        what="the metrics behind the checkpoint arrive",
    )
    wait_until(lambda: Logs(database).read(held.job.id).data == b"training goes on\n", what="the log arrives")
    wait_until(lambda: of_type(database, held.job.id, "store_away"), what="the outage is told")
    assert ship.shipper.error is not None
    assert not ship.shipper.out_of_space
    assert [path.read_bytes() for path in waiting(ship)] == [b"a"]
    assert not ship.store.root.exists(), "no second store was made in its place"
    ship.bring_store_back()
    assert ship.finish()
    assert ship.shipper.error is None
    (listed,) = Checkpoints(database).page(caller.project_id, held.job.id)
    assert ship.store.path(listed.storage_key).read_bytes() == b"a"
    told = [event.type for event in of_type(database, held.job.id, "store_away", "store_back", "checkpoint_saved")]
    assert told == ["store_away", "checkpoint_saved", "store_back"], "each outage is told once"
    assert waiting(ship) == []


def test_of_recoveries_that_wait_the_newest_two_are_kept(
    database: Database, caller: Caller, held: Claim, start: Callable[..., Ship]
) -> None:
    ship = start()
    ship.take_store_away()
    for number in range(8):
        ship.save(f"r{number}", b"recovery", number, kind="recovery")
    wait_until(lambda: spool_is_read(database, caller, ship, held), what="the spool is read to its end")
    assert len(waiting(ship)) <= 3, "two, and one that is just being tried"
    ship.bring_store_back()
    assert ship.finish()
    kept = Checkpoints(database).of_kind(held.job.id, "recovery")
    assert [one.name for one in kept] == ["r7", "r6"]
    assert len(of_type(database, held.job.id, "checkpoint_saved")) <= 3


def test_what_is_removed_or_saved_again_while_it_waits_is_not_uploaded(
    database: Database, caller: Caller, held: Claim, start: Callable[..., Ship]
) -> None:
    ship = start()
    ship.take_store_away()
    ship.save("first.ckpt", b"1", 1)
    wait_until(lambda: ship.shipper.error is not None, what="the shipper cannot store")
    ship.save("a.ckpt", b"a", 2)
    ship.spool.checkpoint_removed("a.ckpt")
    ship.save("last.ckpt", b"old", 3)
    ship.save("last.ckpt", b"new", 4)
    wait_until(lambda: spool_is_read(database, caller, ship, held), what="the spool is read to its end")
    assert [path.read_bytes() for path in waiting(ship)] == [b"1", b"", b"new"]
    ship.bring_store_back()
    assert ship.finish()
    saved = [event.data["step"] for event in of_type(database, held.job.id, "checkpoint_saved")]
    assert saved == [1, 4]
    assert {one.name for one in Checkpoints(database).page(caller.project_id, held.job.id)} == {
        "first.ckpt",
        "last.ckpt",
    }


def test_another_shipper_of_the_attempt_goes_on_where_the_first_ended(
    database: Database, caller: Caller, held: Claim, start: Callable[..., Ship]
) -> None:
    ship = start()
    ship.save("gone.ckpt", b"gone", 1)
    wait_until(lambda: Checkpoints(database).named(held.job.id, "gone.ckpt"), what="the first is published")
    ship.take_store_away()
    ship.spool.event("first_step", at=1.0, global_step=0)
    ship.spool.metrics({"loss": 1.0}, 2, 0)
    ship.save("a.ckpt", b"a", 2)
    ship.spool.checkpoint_removed("gone.ckpt")
    ship.run.log.write_bytes(b"one\n")
    wait_until(lambda: spool_is_read(database, caller, ship, held), what="the spool is read to its end")
    wait_until(lambda: Logs(database).size(held.job.id, 1) == 4, what="the log is read")
    ship.shipper.abandon()
    ship.bring_store_back()
    ship.spool.metrics({"loss": 0.5}, 3, 0)
    ship.spool.flush()
    with ship.run.log.open("ab") as file:
        file.write(b"two\n")
    (attempt,) = Jobs(database).get(caller.project_id, held.job.id).attempts_list
    ship.succeed(offset=attempt.spool_offset, again=True)
    assert ship.finish()
    (listed,) = Checkpoints(database).page(caller.project_id, held.job.id)
    assert (listed.name, listed.step) == ("a.ckpt", 2)
    assert len(of_type(database, held.job.id, "first_step")) == 1
    assert [summary.count for summary in Metrics(database).summaries(held.job.id)] == [2]
    assert Logs(database).read(held.job.id).data == b"one\ntwo\n"


def test_a_record_taken_up_just_before_the_supervisor_died_is_done_once(
    database: Database, caller: Caller, held: Claim, start: Callable[..., Ship]
) -> None:
    ship = start()
    ship.shipper.abandon()
    ship.save("a.ckpt", b"a", 1)
    record = record_at(ship.run.spool, 0, 1000)
    assert isinstance(record, Saved)
    (ship.run.path / "uploads").mkdir(exist_ok=True)
    (ship.run.outbox / record.file).rename(ship.run.path / "uploads" / f"{0:020d}")  # the offset was never noted
    (ship.run.path / "uploads" / f"{7:020d}").write_bytes(b"where no record begins")
    ship.succeed(offset=0)
    assert ship.finish()
    assert len(of_type(database, held.job.id, "checkpoint_saved")) == 1
    assert waiting(ship) == []
    ship.succeed(offset=0)  # and now all was done but to note the offset
    assert ship.finish()
    assert len(Checkpoints(database).page(caller.project_id, held.job.id)) == 1
    assert len(of_type(database, held.job.id, "checkpoint_saved")) == 1


def test_a_commit_whose_answer_was_lost_leaves_neither_two_rows_nor_a_row_without_its_file(
    database: Database, caller: Caller, held: Claim, start: Callable[..., Ship], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish, tries, committed = Checkpoints.publish, 0, threading.Event()

    def lose_the_first_answer(*arguments: Any) -> Any:
        nonlocal tries
        tries += 1
        answer = publish(*arguments)
        if tries == 1:
            committed.set()
            raise OperationalError("COMMIT", None, ConnectionError("the server closed the connection"))
        return answer

    monkeypatch.setattr(Checkpoints, "publish", lose_the_first_answer)
    ship = start()
    ship.save("a.ckpt", b"a", 1)
    wait_until(committed.is_set, what="the first try was made")
    (listed,) = Checkpoints(database).page(caller.project_id, held.job.id)
    assert ship.store.path(listed.storage_key).read_bytes() == b"a"
    assert ship.finish()
    assert tries == 2
    assert [one.id for one in Checkpoints(database).page(caller.project_id, held.job.id)] == [listed.id]
    assert ship.store.path(listed.storage_key).read_bytes() == b"a"


def test_a_checkpoint_waits_until_what_came_before_it_is_recorded(
    database: Database, held: Claim, start: Callable[..., Ship], monkeypatch: pytest.MonkeyPatch
) -> None:
    note, away = Attempts.note, True

    def lose_events(self: Attempts, connection: Any, job_id: str, token: str, happened: Any = (), **more: Any) -> None:
        if away and happened:
            raise OperationalError("UPDATE", None, ConnectionError("the server closed the connection"))
        note(self, connection, job_id, token, happened, **more)

    monkeypatch.setattr(Attempts, "note", lose_events)
    monkeypatch.setattr(shipping, "RETRY_SECONDS", 0.3)
    ship = start()
    ship.save("first.ckpt", b"x", 1)
    wait_until(lambda: Checkpoints(database).named(held.job.id, "first.ckpt"), what="uploads go on")
    ship.spool.event("before")
    ship.save("second.ckpt", b"x", 2)
    ship.spool.flush()
    with pytest.raises(AssertionError, match="published"):
        wait_until(
            lambda: len(of_type(database, held.job.id, "checkpoint_saved")) > 1, what="published", deadline_seconds=0.5
        )
    away = False
    assert ship.finish()
    told = of_type(database, held.job.id, "before", "checkpoint_saved")
    assert [event.type for event in told] == ["checkpoint_saved", "before", "checkpoint_saved"]


def test_artifacts_that_could_not_be_stored_are_once_the_store_is_back(
    database: Database, held: Claim, start: Callable[..., Ship]
) -> None:
    ship = start()
    ship.take_store_away()
    (ship.run.artifacts / "report.txt").write_text("text")
    finishing = threading.Thread(target=ship.finish)
    finishing.start()
    wait_until(lambda: of_type(database, held.job.id, "store_away"), what="the outage is told")
    ship.bring_store_back()
    finishing.join()
    assert [one.name for one in Artifacts(database).page(held.job.id)] == ["report.txt"]
    assert len(of_type(database, held.job.id, "store_away", "store_back")) == 2


def test_a_checkpoint_that_cannot_be_read_costs_itself_alone(
    database: Database, caller: Caller, held: Claim, start: Callable[..., Ship]
) -> None:
    Jobs(database).request_checkpoint(caller.project_id, held.job.id)
    ship = start()
    (ship.run.outbox / "000001").symlink_to("/etc/passwd")
    ship.report("link.ckpt", 1, kind="requested")
    (ship.run.outbox / "000002").mkdir()
    ship.report("folder.ckpt", 2)
    ship.save("a.ckpt", b"a", 3)
    assert ship.finish()
    assert [one.name for one in Checkpoints(database).page(caller.project_id, held.job.id)] == ["a.ckpt"]
    dropped = of_type(database, held.job.id, "checkpoint_dropped")
    assert [event.data["name"] for event in dropped] == ["link.ckpt", "folder.ckpt"]
    asked = Jobs(database).get(caller.project_id, held.job.id).checkpoint_requested_at
    assert asked is None, "whoever asked for one may ask again"


def test_a_store_that_stays_away_is_given_up_in_the_end_but_is_not_called_full(
    database: Database, held: Claim, start: Callable[..., Ship]
) -> None:
    ship = start(store_away_max_seconds=0.5)
    ship.take_store_away()
    (ship.run.artifacts / "report.txt").write_text("text")
    assert not ship.finish()
    assert ship.shipper.error is not None
    assert not ship.shipper.out_of_space
    assert (ship.run.artifacts / "report.txt").exists(), "the local copy is kept"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_store_that_is_full_keeps_what_it_has_and_takes_more_once_there_is_room(
    database: Database, caller: Caller, held: Claim, start: Callable[..., Ship], small_disk: Path
) -> None:
    ship = start(storage_url=f"file://{small_disk}/store", store_full_max_seconds=0.3)
    ship.save("good.ckpt", b"g" * 1000, 1)
    wait_until(lambda: Checkpoints(database).named(held.job.id, "good.ckpt"), what="the first is published")
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 800_000)
    ship.save("large.ckpt", b"l" * 500_000, 2)
    (ship.run.artifacts / "report.txt").write_text("text")
    wait_until(lambda: ship.shipper.error is not None, what="the shipper cannot store")
    assert ship.shipper.out_of_space
    assert not ship.shipper.finish(threading.Event()), "it is given up after the time given"
    (good,) = Checkpoints(database).page(caller.project_id, held.job.id)
    assert ship.store.path(good.storage_key).read_bytes() == b"g" * 1000
    assert {path.name for path in ship.store.path(f"jobs/{held.job.id}/checkpoints").iterdir()} == {f"{good.id}.ckpt"}
    (event,) = of_type(database, held.job.id, "store_away")
    assert event.data["out_of_space"] is True
    ballast.unlink()
    ship.succeed(offset=ship.run.spool.stat().st_size)
    assert ship.finish()
    assert len(Checkpoints(database).page(caller.project_id, held.job.id)) == 2
    assert [one.name for one in Artifacts(database).page(held.job.id)] == ["report.txt"]
