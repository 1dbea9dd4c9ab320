"""Callbacks that come along; they work in a job and in a Trainer by hand alike."""

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from models.bounds import Positive


class GradientNorm(Callback):
    """Logs the norm of the gradients before each optimizer step, and before the Trainer clips them.

    The metric is `grad_norm`; where a module has several optimizers, `grad_norm_0`, `grad_norm_1`, … in their order,
    each over its own parameters. With accumulated gradients it is the norm of their sum, with mixed precision the
    unscaled one, with several devices that of the gradients as reduced over all. A module that optimizes by hand clips
    before this callback sees the gradients, so there it is the norm that the step is made with.

    It waits for the device no more often than logging does.
    """

    def __init__(self, norm_type: Positive = 2.0) -> None:
        """Choose the norm.

        Args:
            norm_type: The p of the p-norm over all gradients as one vector; 2 is what clipping by norm goes by.
        """
        super().__init__()
        self.norm_type = norm_type

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Log the norm for one optimizer."""
        gradients = [
            parameter.grad
            for group in optimizer.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        pl_module.log(_name(trainer, optimizer), _norm(gradients, self.norm_type), on_step=True, on_epoch=False)


def _name(trainer: Trainer, optimizer: Optimizer) -> str:
    index = next((index for index, one in enumerate(trainer.optimizers) if one is optimizer), 0)
    return "grad_norm" if len(trainer.optimizers) == 1 else f"grad_norm_{index}"


def _norm(gradients: list[Tensor], norm_type: float) -> Tensor:
    """Of an embedding's sparse gradient, the values are all there is."""
    dense = [gradient.coalesce().values() if gradient.is_sparse else gradient for gradient in gradients]
    return torch.nn.utils.get_total_norm(dense, norm_type)
