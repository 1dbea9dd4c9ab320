"""Trial runs, a batch of everything: Lightning's `fast_dev_run`, and dry runs, which go on to test and predict.

Lightning gives a trial no logger and no checkpoint, so what was tried is told by an event of its own.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.model_helpers import is_overridden

from workers.trainer.spool import Spool

METRICS_MAX = 100


class Trials(Callback):
    """Counts batches and seconds of each phase of a trial run, and keeps what was logged in it."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._phases: dict[str, dict[str, Any]] = {}
        self._began: dict[str, float] = {}
        self._warnings: list[str] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Training begins."""
        self._enter("training")

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """A step is done."""
        self._count("training")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Training is over."""
        self._leave(trainer, "training")
        self._warnings = _never_logged(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A validation, inside of training or alone."""
        if "training" in self._phases:  # whose batches are through: an error in what follows is none of training
            self._leave(trainer, "training")
            self._began["training"] = time.monotonic()
        self._enter("validating")

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """A batch is done."""
        self._count("validating")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """It is over."""
        self._leave(trainer, "validating")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A test."""
        self._enter("testing")

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """A batch is done."""
        self._count("testing")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """It is over."""
        self._leave(trainer, "testing")

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Predictions."""
        self._enter("predicting")

    def on_predict_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """A batch is done."""
        self._count("predicting")

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """They are over."""
        self._leave(trainer, "predicting")

    def tell(self, trainer: Trainer) -> None:
        """Report what was tried. A phase that was not come through is one without `seconds`."""
        if trainer.is_global_zero:
            self._spool.event("tried", phases=list(self._phases.values()), warnings=self._warnings)

    def _enter(self, phase: str) -> None:
        self._phases.setdefault(phase, {"phase": phase, "batches": 0, "seconds": None, "metrics": {}})
        self._began[phase] = time.monotonic()

    def _count(self, phase: str) -> None:
        self._phases[phase]["batches"] += 1

    def _leave(self, trainer: Trainer, phase: str) -> None:
        told = self._phases[phase]
        seconds = (told["seconds"] or 0.0) + time.monotonic() - self._began[phase]
        if phase == "training" and "validating" in self._phases:  # which was within it
            seconds -= self._phases["validating"]["seconds"] or 0.0
        told["seconds"] = round(seconds, 3)
        values = {name: float(value) for name, value in list(trainer.callback_metrics.items())[:METRICS_MAX]}
        told["metrics"] = {name: value if math.isfinite(value) else str(value) for name, value in values.items()}


def watch(trainer: Trainer, spool: Spool, *, dry_run: bool) -> None:
    """Have a trial run tell what it tried; any other run is left as it is."""
    if dry_run or getattr(trainer, "fast_dev_run", False):
        trainer.callbacks.append(Trials(spool))  # type: ignore[attr-defined]  # Lightning sets it in a connector


@contextmanager
def told(trainer: Trainer) -> Iterator[None]:
    """While it runs: what was tried is told, however it ends."""
    mine = [one for one in trainer.callbacks if isinstance(one, Trials)]  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for one in mine:
            one.tell(trainer)


def go_on(trainer: Trainer, module: LightningModule, data: LightningDataModule | None) -> None:
    """After the training of a dry run: a batch of the test and of the predictions, where there are such."""
    if trainer.state.fn is not TrainerFn.FITTING:
        return
    if is_overridden("test_step", module) and _has("test_dataloader", module, data):
        trainer.test(module, datamodule=data, verbose=False)
    if _has("predict_dataloader", module, data):
        trainer.predict(module, datamodule=data, return_predictions=False)


def _has(loader: str, module: LightningModule, data: LightningDataModule | None) -> bool:
    return is_overridden(loader, module) or (data is not None and is_overridden(loader, data))


def _never_logged(trainer: Trainer) -> list[str]:
    """Names that callbacks monitor and nobody has logged: Lightning does not look for them in a trial."""
    known = set(trainer.callback_metrics)
    found = []
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        monitor = callback.monitor if isinstance(callback, EarlyStopping | ModelCheckpoint) else None
        if monitor is not None and monitor not in known:
            names = ", ".join(sorted(known)[:20]) or "nothing"
            found.append(f"{type(callback).__name__} monitors {monitor!r}, which was not logged; what was: {names}.")
    return found
