"""What the service does at each step of a run: as little as it can, for Lightning's own steps are short."""

import re
from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop

from tests.waiting import wait_until
from tests.workers.trainer.test_divergence import Diverging
from tests.workers.trainer.watched import Watched
from workers.rundir import Control, Order, RunDir
from workers.trainer.build import build
from workers.trainer.bystander import EACH_BATCH, Bystander
from workers.trainer.control import Agreement, ControlFile
from workers.trainer.loops import install
from workers.trainer.spool import Spool


class Counting(ControlFile):
    reads = 0

    def read(self) -> Control:
        self.reads += 1
        return super().read()


class Nowhere:
    """Is told of places and does nothing there."""

    entering = validation_due = False

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


class Validating(Diverging):
    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss(batch)

    def val_dataloader(self) -> Any:
        return self.train_dataloader()


def test_the_hooks_that_come_with_every_batch_are_lightnings() -> None:
    pattern = re.compile("on_(.*_batch_(start|end)|before_.*|after_.*)")
    assert set(EACH_BATCH) == {name for name in vars(Callback) if pattern.fullmatch(name)}


def test_the_services_callbacks_have_no_hook_at_every_batch_but_those_that_they_need(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "attempt-1")
    model = {"class_path": "models.vision.ImageClassifier", "init_args": {"in_channels": 1, "num_classes": 10}}
    config = {"model": model, "trainer": {"max_epochs": 1}}
    run.create(Order(job_id="job_1", attempt=1, config=config, devices=["cpu:0"], catalog_modules=["models"]))
    callbacks: Any = build(run.order(), run, Spool(run.spool)).trainer.callbacks  # type: ignore[attr-defined]
    ours = [one for one in callbacks if type(one).__module__.startswith("workers.")]
    assert len(ours) == 5
    assert all(isinstance(one, Bystander) for one in ours)
    called = {f"{type(one).__name__}.{hook}" for one in ours for hook in EACH_BATCH if callable(getattr(one, hook))}
    assert called == {
        "Recovery.on_train_batch_end",
        "Recovery.on_validation_batch_end",
        "Reporter.on_train_batch_start",
        "Reporter.on_before_backward",
        "Reporter.on_train_batch_end",
    }


@pytest.mark.parametrize(
    ("stop_on_nan", "left"), [(False, {"on_train_batch_end"}), (True, {"on_train_batch_end", "on_before_backward"})]
)
def test_what_a_run_has_told_once_is_not_looked_at_again(tmp_path: Path, stop_on_nan: bool, left: set[str]) -> None:
    watched = Watched(tmp_path, stop_on_nan=stop_on_nan, max_epochs=2).fit(Diverging())
    assert len([record for record in watched.records("event") if record["type"] == "first_step"]) == 1
    assert {hook for hook in EACH_BATCH if callable(getattr(watched.reporter, hook))} == left


def test_the_control_file_is_read_now_and_then_and_what_is_due_is_known_at_every_look(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    control = Counting(run.control)
    agreement = Agreement(control, 0, 0.0)
    for _ in range(100):
        agreement.due = False
        agreement.look()
        assert agreement.due
    assert 1 <= control.reads < 50
    run.ask(Control(stop=True))

    def stops() -> bool:
        agreement.look()
        return agreement.stop

    wait_until(stops, what="the request is seen", deadline_seconds=5.0)


def test_whether_a_validation_follows_is_found_out_once_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    theirs = _TrainingEpochLoop._should_check_val_fx

    def counted(loop: _TrainingEpochLoop, fetcher: Any) -> bool:
        asked.append(loop.batch_idx)
        return theirs(loop, fetcher)

    monkeypatch.setattr(_TrainingEpochLoop, "_should_check_val_fx", counted)
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(max_epochs=1, val_check_interval=4, logger=False, accelerator="cpu", devices=1, **quiet)
    install(trainer, Nowhere())
    trainer.fit(Validating())
    assert asked == list(range(8))
    assert trainer.fit_loop.epoch_loop.val_loop.batch_progress.total.ready == 16
