"""Profilers' reports, of runs that end well and of those that do not."""

import json
from pathlib import Path

import pytest
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.demos.boring_classes import BoringModel
from torch import Tensor

from workers.trainer import profiles
from workers.trainer.control import Stopped


class Ends(BoringModel):
    """Raises in its fourth step."""

    def __init__(self, error: type[BaseException]) -> None:
        super().__init__()
        self.error = error

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        if batch_idx == 3:
            raise self.error
        step: Tensor = super().training_step(batch, batch_idx)
        return step


def run(module: LightningModule, profiler: str | None, folder: Path, steps: int = 8) -> set[str]:
    """The names of the files that a run leaves."""
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, limit_train_batches=steps, limit_val_batches=0, profiler=profiler,
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    profiles.place(trainer, folder)
    with profiles.kept(trainer):
        trainer.fit(module)
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("profiler", ["simple", "advanced"])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, Stopped])
def test_a_run_that_fails_or_is_stopped_leaves_what_was_measured_until_then(
    profiler: str, error: type[BaseException], tmp_path: Path
) -> None:
    with pytest.raises((error, SystemExit)):
        run(Ends(error), profiler, tmp_path)
    report = (tmp_path / "fit-profile.txt").read_text()
    assert "Ends.optimizer_step" in report


def test_the_trace_of_a_run_that_fails_is_one_that_can_be_opened(tmp_path: Path) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # it has no message
        run(Ends(ValueError), "pytorch", tmp_path)
    (trace,) = tmp_path.glob("*.trace.json")
    assert any("training_step" in event.get("name", "") for event in json.loads(trace.read_text())["traceEvents"])
    assert (tmp_path / "fit-profile.txt").read_text()


def test_traces_bear_the_same_names_whenever_they_were_made(tmp_path: Path) -> None:
    assert run(BoringModel(), "pytorch", tmp_path) == {"fit-profile.txt", "fit-profile-training_step.trace.json"}


def test_a_run_without_a_profiler_leaves_nothing(tmp_path: Path) -> None:
    assert run(BoringModel(), None, tmp_path, steps=1) == set()
