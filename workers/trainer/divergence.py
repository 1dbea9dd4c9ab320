"""A loss that is not finite, or that is not there: seen without a wait for the device at every step."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.core.optimizer import _MockOptimizer
from torch import Tensor

from workers.trainer.whereabouts import Whereabouts

LOOK_EVERY_BATCHES = 16
"""On a device that computes ahead, a look waits for it; so it does where several ranks are to agree."""


class Diverged(Exception):
    """The loss is not finite, and the job asks to stop there."""

    def __init__(self, where: Whereabouts, loss: float | None) -> None:
        self.where = where
        self.loss = loss
        """None: it is another rank's that is not finite."""
        what = "not finite on another rank" if loss is None else "NaN" if math.isnan(loss) else str(loss)
        super().__init__(f"the loss is {what} at {where}")


class NoLoss(Exception):
    """No batch of an epoch had a loss: nothing was trained."""


class LossWatch:
    """Ends a run whose loss is not finite, if asked to, and one that never has a loss.

    Every loss that is propagated back is looked at, one optimizer's or several's. On a CPU that is at once, before the
    weights see it; elsewhere, and where there are several ranks, every `LOOK_EVERY_BATCHES`, under the right step.
    """

    def __init__(self, *, stop_on_nan: bool) -> None:
        self._stops = stop_on_nan
        self._losses: list[Tensor] = []
        self._places: list[tuple[int, Whereabouts]] = []
        self._propagated = False
        self._has_loss = False
        self._batches = 0

    def is_over(self) -> bool:
        """Whether no later loss can end the run: then nothing need be told."""
        return self._has_loss and not self._stops

    def before_backward(self, trainer: Trainer, loss: Tensor) -> None:
        """A loss is about to be propagated back. Raises `Diverged`, as the others do."""
        self._propagated = True
        if self._stops:
            self._take(trainer, loss)

    def batch_end(self, trainer: Trainer, outputs: Any) -> None:
        """What a module optimized without Lightning's `manual_backward` returned is looked at here. Raises `NoLoss`."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else None
        self._has_loss = self._has_loss or self._propagated or loss is not None
        if self._stops and not self._propagated and isinstance(loss, Tensor):
            self._take(trainer, loss)
        self._propagated = False
        self._batches += 1
        if self._batches % LOOK_EVERY_BATCHES == 0:
            self.look(trainer)
        if trainer.is_last_batch:
            self.end(trainer)

    def end(self, trainer: Trainer) -> None:
        """An epoch's or the run's last look. Raises `NoLoss`."""
        self.look(trainer)
        self._check_for_any(trainer)

    def look(self, trainer: Trainer) -> None:
        """Wait for the losses since the last look; several ranks agree on the first that is not finite."""
        if not self._stops or (not self._losses and trainer.world_size == 1):
            return
        numbers = torch.stack(self._losses).tolist() if self._losses else []
        places, self._losses, self._places = self._places, [], []
        found = next((index for index, number in enumerate(numbers) if not math.isfinite(number)), None)
        first = torch.iinfo(torch.int64).max if found is None else places[found][0]
        if trainer.world_size > 1:
            told = torch.tensor(first, device=trainer.strategy.root_device)
            torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MIN)
            if int(told) < first:
                found, first = None, int(told)
        if first == torch.iinfo(torch.int64).max:
            return
        where = next((place for batch, place in places if batch == first), Whereabouts.of(trainer, "training"))
        raise Diverged(where, None if found is None else numbers[found])

    def _take(self, trainer: Trainer, loss: Tensor) -> None:
        value = loss.detach()
        value = (value if value.numel() == 1 else value.sum()).reshape(())
        if value.is_cpu and trainer.world_size == 1:
            number = value.item()
            if not math.isfinite(number):
                raise Diverged(Whereabouts.of(trainer, "training"), number)
            return
        self._losses.append(value.float())
        self._places.append((trainer.fit_loop.total_batch_idx, Whereabouts.of(trainer, "training")))

    def _check_for_any(self, trainer: Trainer) -> None:
        """Lightning skips a batch whose training_step returns None, with a warning; to skip all cannot be meant.

        A run that was resumed within its first epoch may have had losses before.
        """
        module, epoch_loop = trainer.lightning_module, trainer.fit_loop.epoch_loop
        optimizes = any(not isinstance(one, _MockOptimizer) for one in trainer.optimizers)
        began_here = self._batches >= epoch_loop.batch_progress.current.ready > 0
        if self._has_loss or not module.automatic_optimization or not optimizes or not began_here:
            return
        raise NoLoss(
            f"training_step of {type(module).__name__} returned None for all {self._batches} batches, so nothing was"
            " trained: return the loss, a tensor, or a dict with it under 'loss'"
        )
