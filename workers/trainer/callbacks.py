"""The callback that watches a run from inside: its phases, its first step, its progress, what it turned out to be."""

import time
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

from workers.trainer.bystander import Bystander
from workers.trainer.divergence import LossWatch
from workers.trainer.monitors import Monitors
from workers.trainer.remedies import ignored_hooks
from workers.trainer.spool import ProgressFile, Spool
from workers.trainer.summary import Extent, extent, summarize
from workers.trainer.whereabouts import Whereabouts


class Reporter(Bystander):
    """Reports a run to its spool, and ends one that has gone wrong.

    It draws no random number and changes nothing the run computes. Hooks of which nothing more is wanted are given up.
    """

    def __init__(
        self, spool: Spool, progress: ProgressFile, precision_asked: str | None = None, *, stop_on_nan: bool = False
    ) -> None:
        self.failed_at: Whereabouts | None = None
        """Where the run raised, once it has."""
        self._spool = spool
        self._progress = progress
        self._precision_asked = precision_asked
        self._losses = LossWatch(stop_on_nan=stop_on_nan)
        self._monitors = Monitors()
        self._phase = "preparing"
        self._summarized = False
        self._extent = Extent(-1, -1)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Tell of hooks that the user wrote and nobody will call."""
        ignored = ignored_hooks(trainer)
        if ignored and trainer.is_global_zero:
            self._spool.event("hooks_ignored", hooks=ignored)

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A phase of its own: its values are no metrics."""
        self._enter(trainer, "sanity_checking")

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What follows until the first epoch is preparation again."""
        self._enter(trainer, "preparing")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Training begins: from here on the number of steps is known, where there is one."""
        self._extent = extent(trainer)
        self._enter(trainer, "training")
        self._summarize(trainer, pl_module)
        if trainer.fit_loop.total_batch_idx >= 0:  # a resumed run is where it was, before its next batch is done
            self._tell_progress(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """By the second epoch everything is logged that ever will be."""
        self._monitors.epoch_start(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Report the first step of the attempt, by the trainer's own clock."""
        if trainer.is_global_zero:
            self._spool.event("first_step", at=time.time(), global_step=trainer.global_step)
        self._give_up("on_train_batch_start")

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Each optimizer's loss comes by here."""
        self._losses.before_backward(trainer, loss)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Tell how far the run is."""
        if trainer.is_global_zero:
            self._tell_progress(trainer)
            self._spool.flush_if_due()
        if not self._losses.is_over():
            self._losses.batch_end(trainer, outputs)
            if self._losses.is_over():
                self._give_up("on_before_backward")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """An epoch is over."""
        self._monitors.epoch_end()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validation, inside of training or alone."""
        if not trainer.sanity_checking:
            self._losses.look(trainer)  # what a validation may stop for is to be told by its cause
            self._enter(trainer, "validating")
            self._summarize(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Back to training, if there is any."""
        if not trainer.sanity_checking:
            self._enter(trainer, "training" if trainer.state.fn is TrainerFn.FITTING else "saving")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A run that tests."""
        self._enter(trainer, "testing")
        self._summarize(trainer, pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What is left is to save."""
        self._enter(trainer, "saving")

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A run that predicts."""
        self._enter(trainer, "predicting")
        self._summarize(trainer, pl_module)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What is left is to save."""
        self._enter(trainer, "saving")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Training is over; what is left is to save."""
        self._losses.end(trainer)
        self._monitors.end(trainer)
        self._enter(trainer, "saving")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remember where it was: Lightning forgets that before the error gets out."""
        self.failed_at = Whereabouts.of(trainer, self._phase)

    def _give_up(self, hook: str) -> None:
        setattr(self, hook, None)  # as `Bystander` has those that it never wants

    def _tell_progress(self, trainer: Trainer) -> None:
        self._progress.write(
            epoch=trainer.current_epoch,
            global_step=trainer.global_step,
            batches=trainer.fit_loop.total_batch_idx + 1,
            max_steps=self._extent.steps,
            max_batches=self._extent.batches,
        )

    def _summarize(self, trainer: Trainer, module: LightningModule) -> None:
        """Once; without a wait for its being written, which comes with the first step's record."""
        if not self._summarized and trainer.is_global_zero:
            self._summarized = True
            self._spool.summary(summarize(trainer, module, self._precision_asked))

    def _enter(self, trainer: Trainer, phase: str) -> None:
        self._phase = phase
        if trainer.is_global_zero:
            self._spool.phase(phase)
