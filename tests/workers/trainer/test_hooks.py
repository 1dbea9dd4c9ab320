"""The hooks of a job are those of the same run by hand, in the same order."""

from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning.cli import LightningCLI

from tests.workers.trainer.runs import MODULES, ended
from workers.forkserver import Fork
from workers.rundir import Order, RunDir

FLAGS = {
    "accelerator": "cpu", "devices": 1, "max_epochs": 2, "enable_progress_bar": False, "enable_model_summary": False,
    "gradient_clip_val": 1.0,
}  # fmt: skip


def config(**flags: Any) -> dict[str, Any]:
    return {
        "seed_everything": 1,
        "model": {"class_path": "announcing.Module"},
        "data": {"class_path": "announcing.Data"},
        "trainer": FLAGS | {"callbacks": [{"class_path": "announcing.Watch"}]} | flags,
    }


def heard(text: str) -> list[str]:
    """All but `state_dict`: the service asks a callback for its state more often, to have a place to go on from."""
    lines = [line for line in text.splitlines() if line.startswith(("hook: ", "asked: "))]
    return [line for line in lines if not line.endswith(".state_dict")]


@pytest.mark.usefixtures("warm_fork_server")
def test_every_hook_of_module_data_and_callbacks_is_called_as_by_hand(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cli = LightningCLI(args=config(default_root_dir=str(tmp_path / "by-hand")), run=False, save_config_callback=None)
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    by_hand = heard(capfd.readouterr().out)

    run = RunDir(tmp_path / "job")
    run.create(Order("job_1", 1, config(), ["cpu:0"], list(MODULES), threads=1, recovery_interval_seconds=1e9))
    ended((run, [Fork("workers.trainer.main", "train", str(run.path), 0)]))
    as_job = heard(run.log.read_text())

    assert as_job == by_hand
    called = {line.rpartition(".")[2] for line in by_hand}
    assert {
        "on_fit_start",
        "on_before_optimizer_step",
        "on_train_epoch_end",
        "on_save_checkpoint",
        "teardown",
    } <= called
    assert len(by_hand) > 100
