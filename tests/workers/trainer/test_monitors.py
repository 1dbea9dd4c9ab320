"""A monitored name that is never logged: an error that lists those that were, whoever monitors it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint

from tests.workers.trainer.test_divergence import Diverging
from tests.workers.trainer.watched import Watched
from workers.trainer.outcome import of_error, of_success


class Logging(Diverging):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss

    def on_train_epoch_end(self) -> None:
        self.log("late", 1.0)


class Validated(Logging):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch))

    def val_dataloader(self) -> Any:
        return self.train_dataloader()


class Plateau(Validated):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.01)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "los"}}


def checkpoint(folder: Path, monitor: str, **more: Any) -> ModelCheckpoint:
    return ModelCheckpoint(folder / "checkpoints", monitor=monitor, **more)


@pytest.mark.parametrize("who", ["stopping", "checkpoint", "checkpoint without validation", "plateau", "never looks"])
def test_it_is_told_with_the_names_that_were_logged(tmp_path: Path, who: str) -> None:
    modules = {"checkpoint without validation": Logging, "never looks": Logging, "plateau": Plateau}
    callbacks: dict[str, Callback] = {
        "stopping": EarlyStopping("los"),
        "checkpoint": checkpoint(tmp_path, "los"),
        "checkpoint without validation": checkpoint(tmp_path, "los"),
        "never looks": EarlyStopping("los", check_on_train_epoch_end=False),
    }
    chosen = [callbacks[who]] if who in callbacks else []
    watched = Watched(tmp_path, *chosen, max_epochs=3, enable_checkpointing="checkpoint" in who)
    with pytest.raises(Exception) as caught:  # noqa: PT011  # ours or Lightning's, that is the question
        watched.fit(modules.get(who, Validated)())
    outcome = of_error(caught.value, watched.trainer)
    assert outcome.code == "user_error"
    assert outcome.data is not None
    assert outcome.data["monitor"] == "los"
    assert {"train_loss", "train_loss_epoch"} <= set(outcome.data["known_metrics"])
    assert "train_loss" in (outcome.message or "")
    assert watched.trainer.current_epoch <= 1, "it took no longer than to know"


def test_a_name_that_is_logged_behind_the_epoch_is_no_error(tmp_path: Path) -> None:
    watched = Watched(tmp_path, EarlyStopping("late", mode="max", patience=9), max_epochs=2).fit(Logging())
    assert of_success(watched.trainer).code is None


def test_a_run_too_short_for_its_validation_is_no_error(tmp_path: Path) -> None:
    watched = Watched(
        tmp_path, EarlyStopping("val_loss"), max_epochs=2, check_val_every_n_epoch=5, num_sanity_val_steps=0
    )
    assert of_success(watched.fit(Validated()).trainer).code is None


def test_who_is_told_to_be_lenient_is(tmp_path: Path) -> None:
    watched = Watched(tmp_path, EarlyStopping("los", strict=False), max_epochs=2).fit(Validated())
    assert of_success(watched.trainer).code is None


@pytest.mark.parametrize(
    ("arguments", "because", "words"),
    [
        ({"patience": 1, "min_delta": 1e9}, "patience_exhausted", "no better 1 times"),
        ({"stopping_threshold": 1e9}, "stopping_threshold", "past stopping_threshold"),
        ({"divergence_threshold": -1e9}, "divergence_threshold", "past divergence_threshold"),
    ],
)
def test_a_run_that_stops_early_says_why(tmp_path: Path, arguments: Any, because: str, words: str) -> None:
    watched = Watched(tmp_path, EarlyStopping("val_loss", **arguments), max_epochs=9).fit(Validated())
    outcome = of_success(watched.trainer)
    assert (outcome.status, outcome.code) == ("succeeded", "early_stopped")
    assert outcome.data is not None
    assert (outcome.data["because"], outcome.data["stopped_epoch"]) == (because, watched.trainer.current_epoch - 1)
    assert words in (outcome.message or "")


def test_a_monitored_value_that_is_not_finite_stops_early_as_lightning_has_it(tmp_path: Path) -> None:
    module = Validated(3)  # one of the sanity check's two, and of the validation's
    watched = Watched(tmp_path, EarlyStopping("train_loss_epoch"), max_epochs=9).fit(module)
    outcome = of_success(watched.trainer)
    assert outcome.code == "early_stopped"
    assert outcome.data is not None
    assert (outcome.data["because"], outcome.data["score"]) == ("non_finite_metric", "nan")
    assert "not finite (check_finite)" in (outcome.message or "")
