"""Two ranks save, stop and go on together, each with its own random numbers and place."""

import time
from collections.abc import Callable
from pathlib import Path

from tests.waiting import wait_until
from tests.workers.trainer.runs import NEVER, Case, assert_same_end, events, metrics, recoveries, rest, start, train
from workers.rundir import Control, Outcome, RunDir

TWO = Case("Dropping", {"num_workers": 1}, {"max_epochs": 2, "val_check_interval": 2}, ranks=2)


def test_two_ranks_go_on_exactly(undisturbed: Callable[[Case], RunDir], tmp_path: Path) -> None:
    whole = undisturbed(TWO)
    place = recoveries(whole)[-1]
    assert place["step"] > 5
    resumed = train(tmp_path, TWO, resume=(whole, place))
    assert resumed.read_outcome() == Outcome("succeeded"), resumed.log_tail(5000)
    assert [told["resume"] for told in events(resumed, "resumed")] == ["exact"]
    assert rest(resumed) == rest(whole, place)
    assert_same_end(whole, resumed)


def test_two_ranks_save_and_stop_at_the_same_batch(undisturbed: Callable[[Case], RunDir], tmp_path: Path) -> None:
    stopped, forks = start(tmp_path, TWO, interval_seconds=NEVER, step_seconds=0.2)
    wait_until(lambda: stopped.read_progress(), what="a step", deadline_seconds=60.0)
    stopped.ask(Control(saves=1))
    wait_until(lambda: "requested" in stopped.spool.read_text(), what="a checkpoint", deadline_seconds=30.0)
    asked_at = time.monotonic()
    stopped.ask(Control(stop=True, saves=1))
    assert all(fork.wait(60.0) for fork in forks)
    assert time.monotonic() - asked_at < 5.0
    assert stopped.read_outcome() == Outcome("stopped"), stopped.log_tail(5000)
    (place,) = recoveries(stopped)
    resumed = train(tmp_path, TWO, resume=(stopped, place))
    assert resumed.read_outcome() == Outcome("succeeded"), resumed.log_tail(5000)
    assert [told["resume"] for told in events(resumed, "resumed")] == ["exact"]
    assert_same_end(undisturbed(TWO), resumed)
    assert metrics(stopped, resumed) == metrics(undisturbed(TWO))
