"""A run killed at any step and resumed ends as one that was never disturbed: weights and metrics, bit for bit."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.workers.trainer.runs import (
    NEVER,
    Case,
    assert_same_end,
    differences,
    ended,
    events,
    last_checkpoint,
    metrics,
    records,
    recoveries,
    rest,
    start,
    train,
)
from workers.rundir import Outcome, RunDir

KILLS = 10
"""How often each kind of model is killed: at random steps, of each part of the run one."""
STEPS = 20

MODELS = {
    "dropout, shuffled, changed by two workers": Case("Dropping", {"num_workers": 2}),
    "two optimizers": Case("Adversaries", {"num_workers": 2}),
    "accumulation, clipping, a cosine schedule": Case(
        "Dropping", {}, {"accumulate_grad_batches": 3, "gradient_clip_val": 0.5, "val_check_interval": 5}
    ),
}
VALIDATING = Case("Dropping", {}, {"val_check_interval": 3})


@pytest.mark.parametrize("model", MODELS)
def test_a_killed_and_resumed_run_equals_one_that_was_not_disturbed(
    model: str, undisturbed: Callable[[Case], RunDir], tmp_path: Path
) -> None:
    case, whole = MODELS[model], undisturbed(MODELS[model])
    draw, part = random.Random(model), STEPS // KILLS
    steps = [draw.randrange(max(1, first), first + part) for first in range(0, STEPS, part)]
    folders = [tmp_path / f"dies-at-{step}" for step in steps]
    starts = [start(folder, case, dies_at=step) for folder, step in zip(folders, steps, strict=True)]
    dead = [ended(one) for one in starts]
    again = [start(run.path.parent, case, resume=(run, recoveries(run)[-1]), interval_seconds=NEVER) for run in dead]
    for dies_at, killed, resumed in zip(steps, dead, map(ended, again), strict=True):
        assert killed.read_outcome() is None
        assert resumed.read_outcome() == Outcome("succeeded"), resumed.log_tail(3000)
        (told,) = events(resumed, "resumed")
        assert told["resume"] == "exact"
        assert dies_at % 10 - 3 <= told["batches_skipped"] <= dies_at % 10
        assert_same_end(whole, resumed)
        assert metrics(killed, resumed) == metrics(whole)


def test_a_run_killed_inside_a_validation_runs_it_again_with_the_same_values(
    undisturbed: Callable[[Case], RunDir], tmp_path: Path
) -> None:
    killed = train(tmp_path, VALIDATING, dies_validating=18)  # the fifth, in the second epoch
    assert killed.read_outcome() is None
    newest = recoveries(killed)[-1]
    assert newest["step"] == 16
    resumed = train(tmp_path, VALIDATING, resume=(killed, newest))
    assert resumed.read_outcome() == Outcome("succeeded"), resumed.log_tail(3000)
    assert [told["resume"] for told in events(resumed, "resumed")] == ["exact"]
    (_, _, first), *_ = rest(resumed)
    assert first.keys() == {"val_loss"}
    assert_same_end(undisturbed(VALIDATING), resumed)
    assert metrics(killed, resumed) == metrics(undisturbed(VALIDATING))


def test_what_a_validation_saved_before_the_run_died_is_saved_again_under_its_name(
    undisturbed: Callable[[Case], RunDir], tmp_path: Path
) -> None:
    whole = undisturbed(VALIDATING)
    saved_at = {record["step"] for record in records(whole, "checkpoint") if record["kind"] == "model_checkpoint"}
    place = next(place for place in recoveries(whole) if place["step"] in saved_at)
    resumed = train(tmp_path, VALIDATING, resume=(whole, place))
    assert resumed.read_outcome() == Outcome("succeeded"), resumed.log_tail(3000)
    assert rest(resumed) == rest(whole, place)


def test_saving_recoveries_changes_nothing_of_the_run(undisturbed: Callable[[Case], RunDir], tmp_path: Path) -> None:
    often, never = undisturbed(VALIDATING), train(tmp_path, VALIDATING, interval_seconds=NEVER)
    assert len(recoveries(often)) > STEPS, "one a step, and more"
    assert recoveries(never) == []
    folders = (str(often.path), str(never.path))
    assert differences(last_checkpoint(often), last_checkpoint(never), folders) == []
    assert rest(often) == rest(never)
    assert not often.reserve.exists(), "the room for last words is free at the end"


def test_the_users_checkpoints_have_nothing_of_ours(undisturbed: Callable[[Case], RunDir]) -> None:
    checkpoint = last_checkpoint(undisturbed(VALIDATING))
    assert "Recovery" not in checkpoint["callbacks"]
    assert "combined_loader" not in checkpoint["loops"]["fit_loop"]["state_dict"], "a plain loader by hand has no state"
