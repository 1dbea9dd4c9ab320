"""The callback that watches a run from inside: its phases, its first step, its progress."""

import time
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from workers.trainer.spool import ProgressFile, Spool


class Reporter(Callback):
    """Reports a run to its spool. It draws no random number and changes nothing the run computes."""

    def __init__(self, spool: Spool, progress: ProgressFile) -> None:
        self._spool = spool
        self._progress = progress
        self._stepped = False
        self._max_steps = -1

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A phase of its own: its values are no metrics."""
        self._phase(trainer, "sanity_checking")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Training begins: from here on the number of steps is known, where there is one."""
        steps = trainer.estimated_stepping_batches
        self._max_steps = -1 if steps == float("inf") else int(steps)
        self._phase(trainer, "training")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Report the first step of the attempt, by the trainer's own clock."""
        if not self._stepped:
            self._stepped = True
            if trainer.is_global_zero:
                self._spool.event("first_step", at=time.time(), global_step=trainer.global_step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Tell how far the run is."""
        if trainer.is_global_zero:
            self._progress.write(
                epoch=trainer.current_epoch,
                global_step=trainer.global_step,
                batches=trainer.fit_loop.total_batch_idx + 1,
                max_steps=self._max_steps,
            )
            self._spool.flush_if_due()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validation inside of training."""
        if not trainer.sanity_checking:
            self._phase(trainer, "validating")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Back to training."""
        if not trainer.sanity_checking:
            self._phase(trainer, "training")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Training is over; what is left is to save."""
        self._phase(trainer, "saving")

    def _phase(self, trainer: Trainer, phase: str) -> None:
        if trainer.is_global_zero:
            self._spool.phase(phase)
