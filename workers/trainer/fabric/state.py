"""What the service knows of a loop on Fabric that it runs: its `state`, and how far it says it is."""

from collections.abc import Mapping
from typing import Any

from lightning_fabric.wrappers import _FabricOptimizer
from torch import nn
from torch.optim import Optimizer

EPOCHS = ("epoch", "current_epoch")
STEPS = ("global_step", "step")
BATCHES = ("batch", "batch_idx")


class LoopState:
    """A loop's `state`, an attribute, a property or a method that returns it; and what was counted of its run."""

    def __init__(self, loop: Any) -> None:
        self.loop = loop
        self.batches = 0
        """Times that the loop has called `on_train_batch_end`, those of earlier attempts included."""
        self.optimizer_steps = 0
        """Steps of its optimizers, in this attempt."""

    @property
    def values(self) -> dict[str, Any] | None:
        """What `fabric.save` is given; None: the loop has nothing yet."""
        state = getattr(self.loop, "state", None)
        if callable(state) and not isinstance(state, Mapping):
            state = state()
        return state if isinstance(state, dict) and state else None

    @property
    def epoch(self) -> int:
        """The epoch that the state tells; 0 where it tells none."""
        return self._number(EPOCHS, 0)

    @property
    def global_step(self) -> int:
        """The steps that the state tells; where it tells none, the optimizer steps of this attempt."""
        return self._number(STEPS, self.optimizer_steps or self.batches)

    @property
    def batch(self) -> int:
        """The batches of the epoch that the state tells; 0 where it tells none."""
        return self._number(BATCHES, 0)

    @property
    def max_steps(self) -> int:
        """Steps of a whole run, from the loop's `max_steps`; -1: not known."""
        most = _whole(getattr(self.loop, "max_steps", None))
        return -1 if most is None else most

    @property
    def modules(self) -> list[nn.Module]:
        """The modules in the state."""
        return [value for value in (self.values or {}).values() if isinstance(value, nn.Module)]

    @property
    def optimizers(self) -> list[Optimizer]:
        """The optimizers in the state, without Fabric's wrapping."""
        found = (value for value in (self.values or {}).values() if isinstance(value, Optimizer))
        return [one.optimizer if isinstance(one, _FabricOptimizer) else one for one in found]

    @property
    def holds_a_place(self) -> bool:
        """Whether there is anything in it besides weights and optimizers, for where else would the place be."""
        return any(not isinstance(value, (nn.Module, Optimizer)) for value in (self.values or {}).values())

    @property
    def counts_steps(self) -> bool:
        """Whether the steps of its optimizers are heard: those that `fabric.setup` has made are."""
        return any(isinstance(value, _FabricOptimizer) for value in (self.values or {}).values())

    def _number(self, names: tuple[str, ...], otherwise: int) -> int:
        values = self.values or {}
        found = (_whole(values.get(name)) for name in names)
        return next((number for number in found if number is not None), otherwise)


def _whole(value: Any) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31:
        return value
    return None
