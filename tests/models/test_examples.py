import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pytorch_lightning.callbacks import ModelCheckpoint

from tests.models.runs import EXAMPLES, command_line


@pytest.mark.parametrize(
    ("example", "overrides", "metric", "at_least"),
    [
        ("digits.yaml", {"max_epochs": 10}, "test_acc", 0.97),  # to its end it is trained by the demo's test
        ("tabular.yaml", {}, "test_acc", 0.95),
        ("diabetes.yaml", {}, "test_r2", 0.5),
    ],
)
def test_each_example_learns_what_it_says_and_its_best_checkpoint_loads_outside(
    tmp_path: Path, example: str, overrides: dict[str, Any], metric: str, at_least: float
) -> None:
    cli = command_line(example, tmp_path, **overrides)
    cli.trainer.fit(cli.model, cli.datamodule)
    assert isinstance(cli.trainer.checkpoint_callback, ModelCheckpoint)
    best = cli.trainer.checkpoint_callback.best_model_path
    [reported] = cli.trainer.test(cli.model, cli.datamodule, ckpt_path=best, verbose=False, weights_only=True)

    loaded = type(cli.model).load_from_checkpoint(best, weights_only=True)
    [outside] = command_line(example, tmp_path).trainer.test(loaded, cli.datamodule, verbose=False)

    assert reported[metric] >= at_least
    assert outside == reported


def test_the_optimizer_of_the_config_takes_the_place_of_the_models_own(tmp_path: Path) -> None:
    cli = command_line("digits.yaml", tmp_path)
    cli.trainer.limit_train_batches = cli.trainer.limit_val_batches = 1
    cli.trainer.fit_loop.max_epochs = 1
    cli.trainer.fit(cli.model, cli.datamodule)

    assert cli.model.lr != 0.003
    assert cli.trainer.optimizers[0].defaults["lr"] == 0.003
    assert isinstance(cli.trainer.lr_scheduler_configs[0].scheduler, torch.optim.lr_scheduler.CosineAnnealingLR)


def test_the_job_spec_holds_the_very_config_of_the_plain_example() -> None:
    spec = yaml.safe_load((EXAMPLES / "digits-spec.yaml").read_text())

    assert spec["config"] == yaml.safe_load((EXAMPLES / "digits.yaml").read_text())


def test_an_example_trains_by_hand_with_one_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["train.py", "fit", "--config", str(EXAMPLES / "tabular.yaml"), "--trainer.max_epochs", "1"]
    monkeypatch.setattr(sys, "argv", command)

    runpy.run_path(str(EXAMPLES / "train.py"), run_name="__main__")

    assert list(tmp_path.glob("lightning_logs/version_0/checkpoints/last.ckpt"))
