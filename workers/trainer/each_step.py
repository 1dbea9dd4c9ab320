"""What Lightning works out anew at each step, always with the same result, is kept: a third of a small step's time.

`self.log` has the value's accumulator moved to the value's device each time, which copies all that belongs to it though
it has lain there since the first step; and it reads the signature of `training_step`. Neither concerns what is trained
or logged. Where a version of Lightning has no such function, it is left as it is, and is slower.
"""

import sys
from collections.abc import Callable
from typing import Any

import torch
from pytorch_lightning.trainer.connectors.logger_connector import result
from torch import Tensor
from torchmetrics import Metric

SIGNATURE = "is_param_in_hook_signature"
KEPT_MAX = 64
"""Most answers about signatures that are kept: a module has a few hooks."""


def keep() -> None:
    """Put it in place; to be called once."""
    accumulator = getattr(result, "_ResultMetric", None)
    if accumulator is not None:
        accumulator.to = _moved_where_needed(accumulator.to)
    using = [module for name, module in list(sys.modules.items()) if name.startswith("pytorch_lightning.")]
    originals = {function for module in using if (function := vars(module).get(SIGNATURE)) is not None}
    if len(originals) == 1:
        replacement = _asked_once(originals.pop())
        for module in using:
            if SIGNATURE in vars(module):
                vars(module)[SIGNATURE] = replacement


def _moved_where_needed(original: Callable[..., Any]) -> Callable[..., Any]:
    def to(self: Metric, *arguments: Any, **named: Any) -> Any:
        device = arguments[0] if len(arguments) == 1 and not named else None
        if isinstance(device, torch.device) and all(_lies_on(value, device) for value in vars(self).values()):
            return self
        return original(self, *arguments, **named)

    return to


def _lies_on(value: Any, device: torch.device) -> bool:
    """Whether there is nothing in it to move there; False where that is not told at a glance."""
    if isinstance(value, Tensor):
        return value.device == device
    if isinstance(value, Metric):
        return False
    if isinstance(value, dict):
        return not value or all(_lies_on(item, device) for item in value.values())
    if isinstance(value, (list, tuple)):
        return not value or all(_lies_on(item, device) for item in value)
    return True


def _asked_once(original: Callable[..., bool]) -> Callable[..., bool]:
    kept: dict[Any, bool] = {}

    def ask(hook: Any, *arguments: Any, **named: Any) -> bool:
        asked = (hook, arguments, tuple(named.items()))
        try:
            there = kept.get(asked)
        except TypeError:  # a hook that cannot be hashed
            return original(hook, *arguments, **named)
        if there is None:
            if len(kept) >= KEPT_MAX:
                kept.clear()
            there = kept[asked] = original(hook, *arguments, **named)
        return there

    return ask
