"""Callbacks and schedulers that monitor a metric which is never logged: an error that lists what was."""

import difflib
import re
from collections.abc import Sequence
from typing import Any

from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint

NAMES_MAX = 100
ALWAYS_THERE = frozenset({"epoch", "step"})
"""Names that ModelCheckpoint may monitor though nobody logs them."""
LIGHTNINGS = (
    re.compile(r"Early stopping conditioned on metric `(?P<monitor>.+?)` which is not available"),
    re.compile(r"`ModelCheckpoint\(monitor='(?P<monitor>.+?)'\)` could not find the monitored key"),
    re.compile(r"ReduceLROnPlateau conditioned on metric (?P<monitor>.+?) which is not available"),
)
"""What Lightning 2.6 raises: at the first check, the first save behind a validation, the first step."""


class MonitorMissing(Exception):
    """What Lightning leaves at a warning or says nothing about, because it never came to look."""

    def __init__(self, who: str, monitor: str) -> None:
        self.monitor = monitor
        super().__init__(f"{who} monitors `{monitor}`, which was never logged")


class Monitors:
    """Raises for a name that cannot come any more: an epoch is over, and a validation if there is any."""

    def __init__(self) -> None:
        self._epochs = 0

    def epoch_start(self, trainer: Trainer) -> None:
        """All that is logged at an epoch's end is there. Raises `MonitorMissing`."""
        if self._epochs > 0:
            self._check(trainer)

    def epoch_end(self) -> None:
        """Modules log in this hook, too, behind callbacks: it is counted here and looked at later."""
        self._epochs += 1

    def end(self, trainer: Trainer) -> None:
        """The last chance was had. Raises `MonitorMissing`."""
        if self._epochs > 0:
            self._check(trainer)

    def _check(self, trainer: Any) -> None:  # connectors give a Trainer attributes that its class does not have
        if trainer.fast_dev_run or (trainer.enable_validation and not trainer.fit_loop.epoch_loop.val_loop._has_run):
            return
        # Not the public property: it computes what is under way. What is only logged by step may not be there yet.
        known = {result.meta.name for result in trainer.fit_loop.epoch_loop._results.values()}
        known |= trainer._logger_connector._callback_metrics.keys()
        for callback in trainer.callbacks:
            monitor = _monitor(callback)
            if monitor is not None and monitor not in known:
                raise MonitorMissing(type(callback).__name__, monitor)


def missing_monitor(error: BaseException) -> str | None:
    """The name that was never logged, where that is what an error of Lightning's or ours says."""
    if isinstance(error, MonitorMissing):
        return error.monitor
    found = next((match for pattern in LIGHTNINGS if (match := pattern.search(str(error)))), None)
    return None if found is None else found["monitor"]


def monitor_remedy(monitor: str, known: Sequence[str]) -> str:
    """What to do about it, in a sentence."""
    if not known:
        return f"Nothing was logged: call self.log({monitor!r}, value) in training_step or validation_step."
    close = difflib.get_close_matches(monitor, known, n=1, cutoff=0.5)
    meant = f" (did you mean `{close[0]}`?)" if close else ""
    return f"Log it with self.log({monitor!r}, value), or monitor one that was logged{meant}: {', '.join(known)}."


def _monitor(callback: Callback) -> str | None:
    if isinstance(callback, EarlyStopping):
        return callback.monitor if callback.strict else None
    if isinstance(callback, ModelCheckpoint):
        return callback.monitor if callback.save_top_k != 0 and callback.monitor not in ALWAYS_THERE else None
    return None
