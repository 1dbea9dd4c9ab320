"""Lightning's own callbacks that change what is trained: a run resumed in their midst ends as the undisturbed one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.workers.trainer.runs import NEVER, Case, assert_same_end, ended, events, recoveries, rest, start, train
from workers.rundir import Outcome, RunDir


def callback(name: str, **init_args: Any) -> dict[str, Any]:
    return {"class_path": name, "init_args": init_args}


THREE = {"max_epochs": 3}
PRUNING: dict[str, Any] = {"pruning_fn": "l1_unstructured", "amount": 0.3, "parameter_names": ["weight"]}
CASES = {
    "masks, accumulation by the epoch, a running mean of the loss": (
        Case(
            "Dropping",
            callbacks=[
                callback("ModelPruning", make_pruning_permanent=False, **PRUNING),
                callback("GradientAccumulationScheduler", scheduling={1: 3}),
                callback("SpikeDetection", rtol=100.0),
            ],
        ),
        [12],
    ),
    "masks that leave the saved weights as they are": (
        Case("Dropping", callbacks=[callback("ModelPruning", **PRUNING)]),
        [17],
    ),
    "stochastic weight averaging, and its last epoch, of batch statistics": (
        Case("Dropping", {}, THREE, [callback("StochasticWeightAveraging", swa_lrs=0.05, swa_epoch_start=2)]),
        [15, 30],
    ),
    "a batch size and a learning rate that were looked for, moving averages": (
        Case(
            "Sought",
            {},
            THREE,
            [
                callback("BatchSizeFinder", max_trials=1, init_val=2),
                callback("LearningRateFinder", num_training_steps=10),
                callback("EMAWeightAveraging", decay=0.9),
            ],
        ),
        [7, 24],
    ),
    "a backbone that was frozen, batch statistics too": (
        Case("Backboned", callbacks=[callback("exacting.Thawing")]),
        [15],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_a_callback_changed_is_changed_again(
    case: str, undisturbed: Callable[[Case], RunDir], tmp_path: Path
) -> None:
    what, steps = CASES[case]
    whole = undisturbed(what)
    for step in steps:
        place = next(place for place in recoveries(whole) if place["step"] == step)
        resumed = train(tmp_path / str(step), what, resume=(whole, place), interval_seconds=NEVER)
        assert resumed.read_outcome() == Outcome("succeeded"), resumed.log_tail(3000)
        assert [told["resume"] for told in events(resumed, "resumed")] == ["exact"]
        assert rest(resumed) == rest(whole, place)
        assert_same_end(whole, resumed)


def test_what_finders_put_by_while_they_try_is_no_checkpoint(undisturbed: Callable[[Case], RunDir]) -> None:
    case, _ = CASES["a batch size and a learning rate that were looked for, moving averages"]
    names = {one for one in rest(undisturbed(case)) if isinstance(one, str)}
    saved = {one[0] for one in rest(undisturbed(case)) if isinstance(one, tuple) and len(one) == 5}
    assert saved
    assert not [name for name in names | saved if name.startswith(".")]


@pytest.mark.usefixtures("warm_fork_server")
def test_a_spike_ends_the_run_and_leaves_the_batches_to_skip_as_an_artifact(tmp_path: Path) -> None:
    spikes = callback("SpikeDetection", rtol=0.0, warmup=1, exclude_batches_path="odd.json")
    run = ended(start(tmp_path, Case("Dropping", callbacks=[spikes])))
    outcome = run.read_outcome()
    assert outcome is not None
    assert outcome.status == "failed"
    assert "Training spike detected in batch" in (outcome.message or "")
    assert (run.artifacts / "odd.json").is_file()


@pytest.mark.usefixtures("warm_fork_server")
def test_a_timer_whose_interval_is_left_out_stops_the_run(tmp_path: Path) -> None:
    run = ended(start(tmp_path, Case("Dropping", callbacks=[callback("Timer", duration="00:00:00:00")])))
    outcome = run.read_outcome()
    assert outcome is not None
    assert outcome.status == "succeeded", outcome.traceback
    assert "Time limit reached" in run.log_tail(5000)
