"""The place before a validation, kept while it runs: weights do not change in it, so it can be saved later too."""

from dataclasses import dataclass
from typing import Any

import torch
from pytorch_lightning import LightningModule

SAMPLED_TENSORS = 16
SAMPLED_VALUES = 4


@dataclass(frozen=True, slots=True)
class Boundary:
    """What a recovery checkpoint of the place has, less what a validation leaves alone."""

    state: dict[str, Any]
    loops: dict[str, Any]
    callbacks: dict[str, Any]
    weights: "Weights"


class Weights:
    """Tells whether the weights are still those that they were.

    A callback may validate with others, averages for instance, and put them back afterwards; it may do so behind the
    back of autograd, which counts changes. So some values are compared too.
    """

    def __init__(self, module: LightningModule) -> None:
        self._module = module
        self._marks = self._counted()
        self._values = self._sampled()

    def unchanged(self) -> bool:
        """Whether a checkpoint of now has the weights of then."""
        return self._marks == self._counted() and all(map(torch.equal, self._values, self._sampled()))

    def _counted(self) -> list[tuple[int, int]]:
        return [(tensor.data_ptr(), tensor._version) for tensor in self._tensors()]

    def _sampled(self) -> list[torch.Tensor]:
        tensors = self._tensors()
        some = tensors[:: max(1, len(tensors) // SAMPLED_TENSORS)]
        return [tensor.detach().reshape(-1)[:SAMPLED_VALUES].clone() for tensor in some]

    def _tensors(self) -> list[torch.Tensor]:
        return [*self._module.parameters(), *self._module.buffers()]
