"""Where a run is: what an error says of its place, in words and as data."""

from dataclasses import dataclass
from typing import Any

from pytorch_lightning import Trainer


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """A place in a run. `stage` is a phase of its job; `batch` counts from 0 within an epoch, or an evaluation."""

    stage: str
    epoch: int
    global_step: int
    batch: int | None

    @classmethod
    def of(cls, trainer: Trainer, stage: str) -> "Whereabouts":
        """Where the run is now."""
        loop: Any = trainer.fit_loop.epoch_loop if trainer.training else trainer._active_loop
        batch = -1 if loop is None else loop.batch_progress.current.ready - 1
        return cls(stage, trainer.current_epoch, trainer.global_step, batch if batch >= 0 else None)

    def data(self) -> dict[str, Any]:
        """As a reason tells it."""
        told = {"stage": self.stage, "epoch": self.epoch, "global_step": self.global_step}
        return told if self.batch is None else told | {"batch": self.batch}

    def __str__(self) -> str:
        batch = "" if self.batch is None else f", batch {self.batch}"
        return f"step {self.global_step} (epoch {self.epoch}{batch})"
