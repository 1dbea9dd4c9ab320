"""The logger of a loop on Fabric: what it logs by `fabric.log` and `fabric.log_dict` becomes the job's metrics."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from pytorch_lightning.utilities import rank_zero_only

from workers.rundir import Order, RunDir
from workers.trainer.fabric.state import LoopState
from workers.trainer.logger import STEP_MAX, SpoolLogger
from workers.trainer.spool import Spool

LATEST_MAX = 200
"""Names of which a checkpoint tells the latest value."""


class LoopLogger(SpoolLogger):
    """Takes the loop's own step numbers; where a call names none, the step and epoch of its state are meant."""

    def __init__(self, spool: Spool, run: RunDir, order: Order, state: LoopState) -> None:
        super().__init__(spool, run, order)
        self.latest: dict[str, float | str] = {}
        """What each name was when it was last logged."""
        self.on_log: Callable[[], None] = lambda: None
        self._state = state

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Report values."""
        super().log_metrics(metrics, step)
        for name, value in metrics.items():
            if (
                name != "epoch"
                and isinstance(value, (int, float))
                and (name in self.latest or len(self.latest) < LATEST_MAX)
            ):
                self.latest[name] = float(value) if math.isfinite(value) else str(float(value))
        self.on_log()

    def step(self, given: Any = None) -> int:
        """The step that is meant."""
        return max(0, min(self._state.global_step if given is None else int(given), STEP_MAX))

    def _epoch(self, given: float | None) -> int | None:
        told = super()._epoch(given)
        return self._state.epoch if told is None else told
