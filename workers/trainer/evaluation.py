"""A run that validates, tests or predicts and trains nothing: how far it is, and how it is stopped."""

from typing import Any

from pytorch_lightning import LightningModule, Trainer

from workers.rundir import RunDir
from workers.trainer.bystander import Bystander
from workers.trainer.control import ControlFile, Stopped
from workers.trainer.spool import ProgressFile, Spool


class Evaluation(Bystander):
    """Reports such a run, and stops it between two batches. It has nothing to save: another attempt begins anew.

    Each rank stops by itself. One that waits for another meanwhile is told that it is gone, which is no fault then.
    """

    def __init__(self, run: RunDir, spool: Spool) -> None:
        self._control = ControlFile(run.control)
        self._spool = spool
        self._progress = ProgressFile(run.progress)
        self._done = 0
        self._most = -1

    @property
    def is_to_stop(self) -> bool:
        """Whether it was asked to."""
        return self._control.read().stop

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The run's one phase begins."""
        self._begin(trainer, trainer.validate_loop.max_batches)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As above."""
        self._begin(trainer, trainer.test_loop.max_batches)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As above."""
        self._begin(trainer, trainer.predict_loop.max_batches)

    def on_validation_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        """One batch further."""
        self._step(trainer)

    def on_test_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        """As above."""
        self._step(trainer)

    def on_predict_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        """As above."""
        self._step(trainer)

    def _begin(self, trainer: Trainer, batches: list[int | float]) -> None:
        whole = sum(batches)
        self._most = -1 if whole == float("inf") else int(whole)
        if trainer.is_global_zero:
            self._tell(trainer)
        self._stop_if_asked()

    def _step(self, trainer: Trainer) -> None:
        self._done += 1
        if trainer.is_global_zero:
            self._tell(trainer)
            self._spool.flush_if_due()
        self._stop_if_asked()

    def _tell(self, trainer: Trainer) -> None:
        self._progress.write(
            epoch=trainer.current_epoch,
            global_step=trainer.global_step,
            batches=self._done,
            max_steps=-1,
            max_batches=self._most,
        )

    def _stop_if_asked(self) -> None:
        if self.is_to_stop:
            raise Stopped
