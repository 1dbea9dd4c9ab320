"""What a loop on Fabric does, as its hooks tell: its phases, its first step, its progress."""

import time
from typing import Any

from workers.rundir import Order
from workers.statements import OPTIMIZERS_MAX
from workers.trainer.fabric.state import LoopState
from workers.trainer.spool import ProgressFile, Spool

PHASES = {
    "on_train_start": "training",
    "on_train_epoch_start": "training",
    "on_train_batch_start": "training",
    "on_train_batch_end": "training",
    "on_validation_start": "validating",
    "on_validation_epoch_start": "validating",
    "on_validation_batch_start": "validating",
    "on_validation_end": "training",
    "on_validation_epoch_end": "training",
    "on_train_end": "saving",
}


class LoopReporter:
    """Reports a loop to its spool, from the first rank."""

    def __init__(self, order: Order, spool: Spool, progress: ProgressFile, state: LoopState) -> None:
        self.fabric: Any = None
        """Set once it is made."""
        self._spool = spool
        self._progress = progress
        self._state = state
        self._nodes = order.nodes
        asked = (order.config.get("trainer") or {}).get("precision")
        self._precision_asked = None if asked is None else str(asked)
        self._phase = ""
        self._stepped = False
        self._summarized = False

    def heard(self, hook: str) -> None:
        """The loop has called a hook."""
        if not self.fabric.is_global_zero:
            return
        phase = PHASES.get(hook, self._phase)
        if phase != self._phase:
            self._phase = phase
            self._spool.phase(phase)
        if hook in ("on_train_batch_start", "on_train_batch_end") and not self._stepped:
            self._stepped = True
            self._spool.event("first_step", at=time.time(), global_step=self._state.global_step)
        if hook == "on_train_batch_end":
            state = self._state
            if not self._summarized and state.values is not None:
                self._summarized = True
                self._spool.summary(self._summary())
            self._progress.write(
                epoch=state.epoch,
                global_step=state.global_step,
                batches=state.batches + 1,
                max_steps=state.max_steps,
            )
        self._spool.flush_if_due()

    def _summary(self) -> dict[str, Any]:
        """What can be told of a loop: the module has no say in it, only what is in its state."""
        fabric, state = self.fabric, self._state
        parameters = {id(one): one for module in state.modules for one in module.parameters()}.values()
        return {
            "parameters": sum(one.numel() for one in parameters),
            "trainable_parameters": sum(one.numel() for one in parameters if one.requires_grad),
            "precision_asked": self._precision_asked,
            "precision": str(fabric.strategy.precision.precision),
            "accelerator": fabric.accelerator.name(),
            "devices": fabric.world_size // self._nodes,
            "nodes": self._nodes,
            "world_size": fabric.world_size,
            "strategy": type(fabric.strategy).__name__,
            "optimizers": [type(one).__name__ for one in state.optimizers[:OPTIMIZERS_MAX]],
            "estimated_steps": None if state.max_steps < 0 else state.max_steps,
        }
