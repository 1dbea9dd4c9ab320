"""What a run turned out to be, against what it then does."""

import time
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning.callbacks import GradientAccumulationScheduler
from pytorch_lightning.utilities import CombinedLoader
from torch import nn
from torch.utils.data import DataLoader

from tests.workers.trainer.test_divergence import ByHand, Diverging
from tests.workers.trainer.watched import Watched
from workers.progress import Speedometer
from workers.statements import read_summary
from workers.trainer.summary import HYPERPARAMETERS_BYTES, summarize


class Colour(Enum):
    RED = 1


class Kept(Diverging):
    """Keeps hyperparameters of all kinds."""

    def __init__(self, **kept: Any) -> None:
        super().__init__()
        self.save_hyperparameters(kept)
        self.layer.bias.requires_grad_(False)


def summary(watched: Watched) -> dict[str, Any]:
    (record,) = watched.records("summary")
    return read_summary(record["summary"])


@pytest.mark.parametrize(
    "flags",
    [
        {"max_epochs": 3},
        {"max_epochs": 2, "accumulate_grad_batches": 3},
        {"max_epochs": 9, "max_steps": 10},
        {"max_epochs": -1, "max_steps": 5},
        {"max_epochs": 4, "schedule": {1: 2, 3: 8}},
        {"max_epochs": 2, "schedule": {0: 3, 7: 8}},
        {"max_epochs": 2, "limit_train_batches": 0.5},
    ],
)
def test_the_steps_that_are_estimated_are_those_that_are_made(tmp_path: Path, flags: dict[str, Any]) -> None:
    schedule = flags.pop("schedule", None)
    callbacks = [] if schedule is None else [GradientAccumulationScheduler(dict(schedule))]
    watched = Watched(tmp_path, *callbacks, **flags).fit(Diverging())
    assert summary(watched)["estimated_steps"] == watched.trainer.global_step
    progress = watched.run.read_progress()
    assert progress is not None
    assert Speedometer().read(progress)["fraction"] == 1.0


@pytest.mark.parametrize(
    ("flags", "halfway", "max_steps"), [({"max_epochs": 2}, 8, None), ({"max_epochs": 4, "max_steps": 32}, 8, 32)]
)
def test_how_much_is_done_is_right_where_a_batch_has_two_steps(
    tmp_path: Path, flags: dict[str, int], halfway: int, max_steps: int | None
) -> None:
    """By batches where nothing else is known, by steps where those are limited."""
    seen = {}

    class Looking(ByHand):
        def on_train_batch_end(self, *_: Any) -> None:
            progress = watched.run.read_progress()
            assert progress is not None
            seen[progress.batches] = Speedometer().read(progress)

    watched = Watched(tmp_path, **flags)
    watched.fit(Looking())
    assert seen[halfway]["fraction"] == 0.5
    assert (seen[halfway]["global_step"], seen[halfway]["max_steps"]) == (2 * halfway, max_steps)
    assert seen[2 * halfway]["fraction"] == 1.0
    assert summary(watched)["estimated_steps"] == max_steps
    assert summary(watched)["optimizers"] == ["SGD", "SGD"]


def test_parameters_precision_and_loaders_are_told(tmp_path: Path) -> None:
    class Several(Kept):
        def train_dataloader(self) -> Any:
            loaders = {"a": super().train_dataloader(), "b": DataLoader(torch.ones(8, 4), batch_size=5)}
            return CombinedLoader(loaders, "min_size")

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.layer(batch["b"]).mean()

    told = summary(Watched(tmp_path, max_epochs=1, precision="16-mixed").fit(Several()))
    assert (told["parameters"], told["trainable_parameters"]) == (5, 4)
    assert (told["precision_asked"], told["precision"]) == ("16-mixed", "bf16-mixed")
    assert (told["batch_size"], told["effective_batch_size"]) == (7, 7)


def test_a_loader_without_a_batch_size_has_none(tmp_path: Path) -> None:
    class Batches:
        def __len__(self) -> int:
            return 3

        def __iter__(self) -> Any:
            return iter([[torch.ones(2, 4)]] * 3)

    class Alone(Diverging):
        def train_dataloader(self) -> Any:
            return Batches()

    told = summary(Watched(tmp_path, max_epochs=1).fit(Alone()))
    assert (told["batch_size"], told["effective_batch_size"], told["estimated_steps"]) == (None, None, 3)


def test_hyperparameters_are_told_as_json_has_them_and_within_bounds(tmp_path: Path) -> None:
    kept: dict[str, Any] = {
        "lr": 0.1,
        "nan": float("nan"),
        "path": Path("/a"),
        "colour": Colour.RED,
        "number": np.float32(0.5),
        "tensor": torch.tensor(3),
        "weights": torch.ones(1000),
        "shape": (1, {2}),
        "huge": 10**30,
        "torn": "\ud800",
        "net": nn.Linear(1, 1),
        "long": "x" * 10_000,
        "many": list(range(10_000)),
        "deep": {},
    }
    place = kept["deep"]
    for _ in range(100):
        place = place.setdefault("deeper", {})
    kept |= {f"more_{index}": "y" * 200 for index in range(200)}
    told = summary(Watched(tmp_path, max_epochs=1).fit(Kept(**kept)))
    model = told["hyperparameters"]["model"]
    assert (model["lr"], model["nan"], model["path"], model["colour"]) == (0.1, "nan", "/a", "RED")
    assert (model["number"], model["tensor"], model["shape"], model["huge"]) == (0.5, 3, [1, [2]], str(10**30))
    assert (model["weights"], model["net"]) == ("<torch.Tensor>", "<torch.nn.modules.linear.Linear>")
    assert (len(model["long"]), len(model["many"])) == (255, 100)
    assert told["hyperparameters_left_out"] == len(kept) - len(model) > 0
    assert len(str(model)) < 2 * HYPERPARAMETERS_BYTES


def test_it_costs_about_a_millisecond(tmp_path: Path) -> None:
    module = Diverging()
    module.many = nn.ModuleList(nn.Linear(2, 2) for _ in range(300))
    watched = Watched(tmp_path, max_epochs=1).fit(module)
    watched.trainer.training = True
    took = []
    for _ in range(20):
        began = time.perf_counter()
        summarize(watched.trainer, module, None)
        took.append(time.perf_counter() - began)
    assert min(took) < 0.003


def test_a_resumed_run_tells_where_it_is_before_its_next_batch(tmp_path: Path) -> None:
    before = Watched(tmp_path / "before", max_epochs=2)
    before.fit(Diverging())
    before.trainer.save_checkpoint(tmp_path / "epoch.ckpt")
    told = []

    class Looking(Diverging):
        def on_train_start(self) -> None:
            progress = watched.run.read_progress()
            assert progress is not None
            told.append((progress.epoch, progress.global_step, progress.batches))

    watched = Watched(tmp_path / "after", max_epochs=3)
    watched.trainer.fit(Looking(), ckpt_path=tmp_path / "epoch.ckpt", weights_only=True)
    assert told == [(2, 16, 16)]
