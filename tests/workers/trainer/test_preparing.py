"""`prepare_data` and `setup` as a trainer calls them: once per machine, never twice at once, and errors by name."""

import fcntl
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import wait_until
from tests.workers.trainer.runs import Case, ended, events, start, train
from workers.forkserver import Fork
from workers.rundir import Control, Outcome, RunDir
from workers.trainer.data_errors import preparing
from workers.trainer.data_lock import DataLock
from workers.trainer.outcome import of_error
from workers.trainer.preparing import naming

pytestmark = pytest.mark.usefixtures("warm_fork_server")


@dataclass(frozen=True)
class Prepared(Case):
    """A run on `gated.Gated`, or of a module that has its own `prepare_data`."""

    model: str = "Line"
    data: dict[str, Any] | None = None
    asks: dict[str, Any] = field(default_factory=dict)

    def config(self, **init_args: Any) -> dict[str, Any]:
        config = super().config()
        own = {"class_path": f"gated.{self.model}", "init_args": self.init_args}
        flags = config["trainer"] | {"max_epochs": 1, "enable_checkpointing": False, "callbacks": None}
        data = None if self.data is None else {"class_path": "gated.Gated", "init_args": self.data | init_args}
        return config | {"model": own, "data": data, "trainer": flags}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where the data of a test go; its gate is shut."""
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


def case(place: Path, *, locks: str | None = None, wait_seconds: float = 60.0, **options: Any) -> Prepared:
    asks = {"data_locks": locks or str(place.parent / "locks"), "data_wait_seconds": wait_seconds}
    return Prepared(data={"folder": str(place)}, asks=asks, **options)


def entered(place: Path) -> set[str]:
    """The processes that have begun to prepare."""
    return {file.name for file in place.glob("entered-*")}


@contextmanager
def running(folder: Path, one: Prepared, **init_args: Any) -> Iterator[tuple[RunDir, list[Fork]]]:
    started = start(folder, one, **init_args)
    try:
        yield started
    finally:
        for fork in started[1]:
            fork.kill()


def until_entered(place: Path, *, count: int = 1) -> None:
    wait_until(lambda: len(entered(place)) == count, what=f"{count} have begun to prepare")


def until_waiting(run: RunDir) -> None:
    wait_until(lambda: bool(events(run, "data_awaited")), what="it waits for another")


def succeeded(started: tuple[RunDir, list[Fork]]) -> RunDir:
    run = ended(started)
    outcome = run.read_outcome()
    assert outcome is not None
    assert outcome.status == "succeeded", outcome
    return run


def test_of_two_runs_one_prepares_and_the_other_waits_and_finds_it_done(place: Path, tmp_path: Path) -> None:
    one = case(place)
    with running(tmp_path / "a", one) as first, running(tmp_path / "b", one, batch_size=7) as second:
        until_entered(place)
        runs = [first[0], second[0]]
        wait_until(lambda: any(events(run, "data_awaited") for run in runs), what="the other waits")
        assert len(entered(place)) == 1
        (place / "gate").touch()
        prepared = [events(succeeded(started), "data_prepared")[0] for started in (first, second)]
    waited = sorted(one["waited_seconds"] for one in prepared)
    assert waited[0] < 0.1 < waited[1]
    assert [one["class_path"] for one in prepared] == ["gated.Gated"] * 2
    assert len(list(place.glob("made-*"))) == 1
    (told,) = [event for run in runs for event in events(run, "data_awaited")]
    assert told == {"class_path": "gated.Gated", "limit_seconds": 60.0}
    assert list((tmp_path / "locks").iterdir()) == []


def test_data_of_another_name_are_prepared_at_the_same_time(place: Path, tmp_path: Path) -> None:
    with running(tmp_path / "a", case(place)) as first, running(tmp_path / "b", case(place), name="other") as second:
        until_entered(place, count=2)
        (place / "gate").touch()
        assert all(events(succeeded(started), "data_awaited") == [] for started in (first, second))


def test_a_run_that_is_killed_while_it_prepares_lets_the_next_go_on(place: Path, tmp_path: Path) -> None:
    one = case(place)
    with running(tmp_path / "a", one) as first:
        until_entered(place)
        with running(tmp_path / "b", one) as second:
            until_waiting(second[0])
            # What it had forked meanwhile is killed with it, as its session is.
            os.killpg(first[1][0].pid, signal.SIGKILL)
            until_entered(place, count=2)
            (place / "gate").touch()
            succeeded(second)


def test_a_run_that_waits_stops_when_it_is_asked_to(place: Path, tmp_path: Path) -> None:
    one = case(place)
    with running(tmp_path / "a", one), running(tmp_path / "b", one) as second:
        run = second[0]
        waiting = [tmp_path / "a" / "attempt-1", run.path]
        wait_until(lambda: any(events(RunDir(path), "data_awaited") for path in waiting), what="one waits")
        late = next(path for path in waiting if events(RunDir(path), "data_awaited"))
        RunDir(late).ask(Control(stop=True))
        wait_until(lambda: RunDir(late).read_outcome() is not None, what="it has stopped")
        outcome = RunDir(late).read_outcome()
        assert outcome is not None
        assert outcome.status == "stopped"


def test_the_wait_for_another_has_an_end(place: Path, tmp_path: Path) -> None:
    with running(tmp_path / "a", case(place)) as first:
        until_entered(place)
        run = train(tmp_path / "b", case(place, wait_seconds=0.3))
        outcome = run.read_outcome()
        assert outcome is not None
        assert (outcome.status, outcome.code) == ("failed", "data_error")
        assert "another job on this machine is preparing the data of gated.Gated, and has been for 0.3 s" in str(
            outcome.message
        )
        (place / "gate").touch()
        succeeded(first)


def test_where_nothing_can_be_locked_the_data_are_prepared_all_the_same(place: Path, tmp_path: Path) -> None:
    (place / "gate").touch()
    locked = tmp_path / "a file"
    locked.touch()
    run = succeeded(start(tmp_path / "a", case(place, locks=str(locked))))
    (told,) = events(run, "data_prepared")
    assert "a file" in told["not_locked"]
    assert "prepared without a lock" in run.log.read_text()


def test_each_rank_sets_up_and_one_prepares(place: Path, tmp_path: Path) -> None:
    (place / "gate").touch()
    run = succeeded(start(tmp_path / "a", case(place, ranks=2)))
    assert [told["node"] for told in events(run, "data_prepared")] == [0]
    told = sorted(events(run, "data_set_up"), key=lambda one: int(one["rank"]))
    assert told == [{"class_path": "gated.Gated", "stage": "fit", "rank": rank} for rank in (0, 1)]
    assert len(entered(place)) == 1


def test_a_module_with_a_prepare_data_of_its_own_prepares_under_the_lock_too(place: Path, tmp_path: Path) -> None:
    asks = {"data_locks": str(tmp_path / "locks")}
    one = Prepared(model="Self", init_args={"folder": str(place)}, asks=asks)
    with running(tmp_path / "a", one) as first:
        until_entered(place)
        assert len(list((tmp_path / "locks").iterdir())) == 1
        (place / "gate").touch()
        (told,) = events(succeeded(first), "data_prepared")
    assert told["class_path"] == "gated.Self"


def test_what_prepare_data_raises_ends_the_run_with_a_data_error(place: Path, tmp_path: Path) -> None:
    run = train(tmp_path / "a", case(place), what="raise")
    outcome = run.read_outcome()
    assert outcome is not None
    assert (outcome.status, outcome.code) == ("failed", "data_error")
    assert outcome.message == "prepare_data of gated.Gated failed: ValueError: the file is not what it was"
    assert "raised while the data were prepared, by prepare_data of gated.Gated" in str(outcome.traceback)


@pytest.mark.parametrize(
    ("what", "status", "code", "words"),
    [
        ("exit", "failed", "data_error", "prepare_data of gated.Gated failed: the code called sys.exit(3)"),
        ("reset", "lost", "data_error", "prepare_data of gated.Gated failed: RuntimeError: no download"),
        ("busy", "lost", "data_error", "prepare_data of gated.Gated failed: HTTPError: HTTP Error 503"),
        ("timeout", "lost", "data_error", "prepare_data of gated.Gated failed: TimeoutError"),
        ("unreachable", "lost", "data_error", "prepare_data of gated.Gated failed: OSError: [Errno 113]"),
        ("missing", "failed", "data_error", "prepare_data of gated.Gated failed: HTTPError: HTTP Error 404"),
        ("unknown_host", "failed", "data_error", "prepare_data of gated.Gated failed: gaierror"),
        ("full", "failed", "out_of_disk", "No space left"),
        ("memory", "failed", "oom", "MemoryError"),
    ],
)
def test_a_data_error_is_lost_to_the_network_alone_and_a_full_disk_stays_one(
    what: Any, status: str, code: str, words: str
) -> None:
    import gated  # the fixture knows where it is

    outcome = Outcome("succeeded")
    try:
        with preparing("gated.Gated"):
            gated.fail(what)
    except BaseException as error:
        outcome = of_error(error)
    assert (outcome.status, outcome.code) == (status, code)
    assert words in str(outcome.message)


def test_what_is_raised_after_prepare_data_is_no_data_error(place: Path, tmp_path: Path) -> None:
    (place / "gate").touch()
    outcome = train(tmp_path / "a", case(place), what="setup").read_outcome()
    assert outcome is not None
    assert (outcome.status, outcome.code) == ("failed", "user_error")


def test_what_names_data_is_texts_and_what_stands_for_one() -> None:
    config = {"class_path": "a.B", "init_args": {"name": "mnist", "batch_size": 3, "flip": True, "none": None}}
    assert naming(config) == {"class_path": "a.B", "init_args": {"name": "mnist"}}
    assert naming({"files": ["a", Path("b"), 3], "inner": {"n": 1}, "kind": DataLock, "more": [1]}) == {
        "files": ["a", "b"],
        "kind": "workers.trainer.data_lock.DataLock",
    }


def test_a_lock_is_one_even_where_its_file_comes_and_goes(tmp_path: Path) -> None:
    one, two, other = (DataLock(tmp_path / "locks", key) for key in ("a", "a", "b"))
    assert (one.take(), two.take(), other.take()) == (True, False, True)
    one.give_back()
    assert two.take()
    assert not one.take()
    two.give_back()
    other.give_back()
    assert list((tmp_path / "locks").iterdir()) == []
    assert (tmp_path / "locks").stat().st_mode & 0o777 == 0o700


def test_a_lock_on_a_file_that_another_has_removed_meanwhile_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock = fcntl.flock

    def late(descriptor: int, operation: int) -> None:
        for file in (tmp_path / "locks").iterdir():
            file.unlink()
        flock(descriptor, operation)

    one, two = DataLock(tmp_path / "locks", "a"), DataLock(tmp_path / "locks", "a")
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", late)
        assert not one.take()
    assert two.take()
    two.give_back()
