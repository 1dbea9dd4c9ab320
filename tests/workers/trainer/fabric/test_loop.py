"""Loops on Fabric in a trainer: where they can be stopped, and how they go on from there."""

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from pytorch_lightning import Trainer

from core.loop_rules import FABRIC_FLAGS
from tests.workers.trainer.runs import (
    NEVER,
    Case,
    Record,
    differences,
    events,
    last_checkpoint,
    metrics,
    records,
    recoveries,
    train,
)
from workers.rundir import RunDir
from workers.trainer.control import AGREE_SECONDS

pytestmark = pytest.mark.usefixtures("warm_fork_server")


@dataclass(frozen=True)
class Looping(Case):
    """A loop of `looping` with its arguments."""

    model: str = "Plain"

    def config(self, **init_args: Any) -> dict[str, Any]:
        """The job's config."""
        flags = {"accelerator": "cpu", "devices": self.ranks} | ({"strategy": "ddp"} if self.ranks > 1 else {})
        model = {"class_path": f"looping.{self.model}", "init_args": self.init_args | init_args}
        return {"seed_everything": 11, "model": model, "trainer": flags | self.flags}


def succeeded(run: RunDir) -> RunDir:
    outcome = run.read_outcome()
    assert outcome is not None
    assert outcome.status == "succeeded", outcome.traceback
    return run


def assert_goes_on_exactly(folder: Path, case: Case, whole: RunDir, before: RunDir, place: Record) -> RunDir:
    """Going on from a place ends with the same weights, generators and metrics as the undisturbed run."""
    resumed = succeeded(train(folder, case, resume=(before, place), interval_seconds=NEVER))
    assert [told["resume"] for told in events(resumed, "resumed")] == ["exact"]
    folders = (str(whole.path), str(resumed.path))
    assert differences(last_checkpoint(whole), last_checkpoint(resumed), folders) == []
    assert metrics(before, resumed) == metrics(whole)
    return resumed


def test_a_loop_goes_on_bit_for_bit_from_within_an_epoch_and_from_its_last_batch(tmp_path: Path) -> None:
    case = Looping(init_args={"removes": True})
    whole = succeeded(train(tmp_path / "whole", case))
    places = recoveries(whole)
    assert [place["step"] for place in places] == list(range(1, 19))
    for step in (8, 12):
        assert_goes_on_exactly(tmp_path / f"from-{step}", case, whole, whole, places[step - 1])

    saved = [(one["name"], one["epoch"]) for one in records(whole, "checkpoint") if one["kind"] == "model_checkpoint"]
    assert saved == [("epochs/0.ckpt", 1), ("epochs/1.ckpt", 2), ("epochs/2.ckpt", 3), ("last.ckpt", 3)]
    assert [one["name"] for one in records(whole, "checkpoint_removed")] == ["epochs/0.ckpt", "epochs/1.ckpt"]
    assert "lightyard" not in torch.load(whole.checkpoints / "last.ckpt", weights_only=True)


def test_a_loop_that_sums_gradients_is_saved_only_where_none_are_under_way(tmp_path: Path) -> None:
    case = Looping(init_args={"accumulate": 3})
    whole = succeeded(train(tmp_path / "whole", case))
    assert [place["step"] for place in recoveries(whole)] == [1, 2, 3, 4, 5, 6]
    assert_goes_on_exactly(tmp_path, case, whole, whole, recoveries(whole)[2])


def test_a_loop_that_only_says_when_a_step_is_over_goes_on_exactly_too(tmp_path: Path) -> None:
    case = Looping(model="Bare")
    whole = succeeded(train(tmp_path / "whole", case))
    assert [point["step"] for point in records(whole, "metrics")] == list(range(8))
    assert_goes_on_exactly(tmp_path, case, whole, whole, recoveries(whole)[3])


def test_a_loop_stops_in_the_midst_of_a_validation_and_begins_it_again(tmp_path: Path) -> None:
    case = Looping()
    whole = succeeded(train(tmp_path / "whole", case, interval_seconds=NEVER))
    stopped = train(tmp_path / "stopped", case, interval_seconds=NEVER, stop_in_validation=1)
    outcome = stopped.read_outcome()
    assert outcome is not None
    assert outcome.status == "stopped"
    assert_goes_on_exactly(tmp_path / "stopped", case, whole, stopped, recoveries(stopped)[-1])


def test_two_ranks_save_together_and_go_on_each_with_its_own_random_numbers(tmp_path: Path) -> None:
    case = Looping(ranks=2)
    # Several ranks look for what is asked a few times a second; here they are to do so at every step.
    whole = succeeded(train(tmp_path / "whole", case, step_seconds=1.1 * AGREE_SECONDS))
    assert len(records(whole, "metrics")) == 9 + 9
    place = recoveries(whole)[4]
    state = torch.load(whole.outbox / place["file"], weights_only=True)
    first, second = (rank["now"]["torch"] for rank in state["lightyard"]["ranks"])
    assert not torch.equal(first, second)
    assert_goes_on_exactly(tmp_path, case, whole, whole, place)
    (summary,) = (one["summary"] for one in records(whole, "summary"))
    assert (summary["world_size"], summary["strategy"], summary["precision"]) == (2, "DDPStrategy", "32-true")


def test_a_loop_that_calls_no_hook_and_takes_no_checkpoint_is_told_so_early(tmp_path: Path) -> None:
    run = succeeded(train(tmp_path, Looping(model="Deaf")))
    first, second = (told["reason"] for told in events(run, "recovery_unavailable"))
    assert "takes no `ckpt_path`" in first
    assert "on_train_batch_end" in second


def test_a_callback_is_any_object_whose_methods_the_loop_calls(tmp_path: Path) -> None:
    listener = {"class_path": "looping.Listener", "init_args": {"says": "heard a batch"}}
    run = succeeded(train(tmp_path, Looping(init_args={"epochs": 1}, flags={"callbacks": [listener]})))
    assert run.log.read_text().count("heard a batch") == 6
    assert "heard a batch" in (run.artifacts / "config.yaml").read_text()


def test_a_loop_diverges_is_tried_and_says_what_it_raised_as_a_module_does(tmp_path: Path) -> None:
    diverged = train(tmp_path / "nan", Looping(init_args={"nan_at": 3}, asks={"stop_on_nan": True})).read_outcome()
    assert diverged is not None
    assert (diverged.status, diverged.code) == ("failed", "diverged")
    assert diverged.data == {"stage": "training", "epoch": 0, "global_step": 3, "batch": 3, "loss": "NaN"}

    tried = succeeded(train(tmp_path / "tried", Looping(asks={"dry_run": True})))
    (told,) = events(tried, "tried")
    assert [(phase["phase"], phase["batches"]) for phase in told["phases"]] == [("training", 1)]

    failed = train(tmp_path / "failed", Looping(init_args={"epochs": -1})).read_outcome()
    assert failed is not None
    assert (failed.status, failed.code, failed.message) == ("failed", "user_error", "ValueError: -1 epochs")


def test_a_loop_takes_the_flags_that_the_trainer_and_fabric_have_both() -> None:
    both = inspect.signature(Trainer).parameters.keys() & inspect.signature(Fabric).parameters.keys()
    assert both == {*FABRIC_FLAGS, "plugins"}
