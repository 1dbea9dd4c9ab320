"""A run that is asked to stop, or to save, does so between two steps, and goes on from there as if it had not."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.waiting import wait_until
from tests.workers.trainer.runs import (
    NEVER,
    Case,
    Record,
    assert_same_end,
    events,
    file_of,
    metrics,
    records,
    recoveries,
    start,
    train,
)
from workers.forkserver import Fork
from workers.rundir import Control, Outcome, RunDir

PLAIN = Case("Dropping")
SHORT = Case("Dropping", {}, {"max_epochs": 1})
AVERAGED = Case("Dropping", {}, {}, [{"class_path": "EMAWeightAveraging"}])
SLOW = {"step_seconds": 0.02}


def at_step(run: RunDir, step: int) -> None:
    def reached() -> bool:
        progress = run.read_progress()
        return progress is not None and progress.global_step >= step

    wait_until(reached, what=f"step {step}", deadline_seconds=60.0)


def at_validation(run: RunDir) -> None:
    def validates() -> bool:
        phases = [record["phase"] for record in records(run, "phase")]
        return bool(phases) and phases[-1] == "validating"

    wait_until(validates, what="a validation", deadline_seconds=60.0)


def stop(run: RunDir, forks: list[Fork]) -> float:
    """The seconds until its processes are gone."""
    asked_at = time.monotonic()
    run.ask(Control(stop=True))
    assert all(fork.wait(60.0) for fork in forks)
    assert run.read_outcome() == Outcome("stopped"), run.log_tail(3000)
    return time.monotonic() - asked_at


def saved(run: RunDir, kind: str) -> list[Record]:
    return [record for record in records(run, "checkpoint") if record["kind"] == kind]


def test_a_stopped_run_loses_no_step(undisturbed: Callable[[Case], RunDir], tmp_path: Path) -> None:
    stopped, forks = start(tmp_path, PLAIN, interval_seconds=NEVER, **SLOW)
    at_step(stopped, 4)
    assert stop(stopped, forks) < 1.0
    (place,) = recoveries(stopped)
    progress = stopped.read_progress()
    assert progress is not None
    assert place["step"] == progress.global_step
    resumed = train(tmp_path, PLAIN, resume=(stopped, place))
    assert resumed.read_outcome() == Outcome("succeeded"), resumed.log_tail(3000)
    assert [told["resume"] for told in events(resumed, "resumed")] == ["exact"]
    assert_same_end(undisturbed(PLAIN), resumed)
    assert metrics(stopped, resumed) == metrics(undisturbed(PLAIN))


def test_a_stop_within_gradients_that_accumulate_loses_none_of_them(tmp_path: Path) -> None:
    case = Case("Dropping", {}, {"accumulate_grad_batches": 100, "max_epochs": 1})
    stopped, forks = start(tmp_path, case, interval_seconds=NEVER, step_seconds=0.2)
    wait_until(lambda: (p := stopped.read_progress()) and p.batches >= 3, what="batches", deadline_seconds=60.0)
    stop(stopped, forks)
    resumed = train(tmp_path, case, resume=(stopped, recoveries(stopped)[0]))
    assert resumed.read_outcome() == Outcome("succeeded"), resumed.log_tail(3000)
    (told,) = events(resumed, "resumed")
    assert told["batches_skipped"] >= 3
    whole = train(tmp_path / "whole", case, interval_seconds=NEVER)
    assert_same_end(whole, resumed)


def test_a_long_validation_stops_at_once_and_is_run_again(
    undisturbed: Callable[[Case], RunDir], tmp_path: Path
) -> None:
    stopped, forks = start(tmp_path, SHORT, interval_seconds=NEVER, validation_step_seconds=0.5)
    at_validation(stopped)
    assert stop(stopped, forks) < 1.5  # a validation step, and a second
    (place,) = recoveries(stopped)
    assert place["step"] == 10
    assert "val_loss" not in {name for name, _ in metrics(stopped)}
    resumed = train(tmp_path, SHORT, resume=(stopped, place))
    assert resumed.read_outcome() == Outcome("succeeded"), resumed.log_tail(3000)
    assert_same_end(undisturbed(SHORT), resumed)
    assert metrics(stopped, resumed) == metrics(undisturbed(SHORT))


def test_a_validation_with_other_weights_ends_before_its_run_stops(
    undisturbed: Callable[[Case], RunDir], tmp_path: Path
) -> None:
    stopped, forks = start(tmp_path, AVERAGED, interval_seconds=NEVER, validation_step_seconds=0.2)
    at_validation(stopped)
    stop(stopped, forks)
    assert "val_loss" in {name for name, _ in metrics(stopped)}
    (place,) = recoveries(stopped)
    resumed = train(tmp_path, AVERAGED, resume=(stopped, place))
    assert_same_end(undisturbed(AVERAGED), resumed)
    assert metrics(stopped, resumed) == metrics(undisturbed(AVERAGED))


def test_a_checkpoint_asked_for_is_saved_once_and_is_lightnings_own(
    undisturbed: Callable[[Case], RunDir], tmp_path: Path
) -> None:
    run, (fork,) = start(tmp_path, PLAIN, interval_seconds=NEVER, **SLOW)
    at_step(run, 3)
    run.ask(Control(saves=1))
    wait_until(lambda: saved(run, "requested"), what="a checkpoint", deadline_seconds=30.0)
    run.ask(Control(saves=2))
    assert fork.wait(60.0)
    assert run.read_outcome() == Outcome("succeeded"), run.log_tail(3000)
    first, second = saved(run, "requested")
    assert first["name"] == f"requested-step={first['step']}.ckpt"
    assert first["step"] < second["step"]
    checkpoint: dict[str, Any] = torch.load(file_of(run, first), weights_only=True)
    assert checkpoint["global_step"] == first["step"]
    assert "Recovery" not in checkpoint["callbacks"]
    assert_same_end(undisturbed(PLAIN), run)
    assert metrics(run) == metrics(undisturbed(PLAIN))


@pytest.mark.parametrize(("model", "data"), [("Unloadable", "map"), ("Dropping", "stream")])
def test_a_run_that_cannot_go_on_from_here_stops_all_the_same_with_a_checkpoint_for_its_user(
    model: str, data: str, tmp_path: Path
) -> None:
    run, forks = start(tmp_path, Case(model, {"data": data}), step_seconds=0.2)
    at_step(run, 2)
    assert stop(run, forks) < 2.0
    (left,) = saved(run, "stop")
    assert left["name"] == f"stop-step={left['step']}.ckpt"
    assert {place["step"] for place in recoveries(run)} <= {0}
    told = events(run, "recovery_unavailable" if model == "Unloadable" else "recovery_by_epoch")
    assert len(told) == 1
