"""Two optimizers, stepped by hand."""

from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class Duel(LightningModule):
    """Two layers that pull at each other: each batch has a step of either, so `global_step` counts two a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.left = nn.Linear(4, 1)
        self.right = nn.Linear(4, 1)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        optimizers: Any = self.optimizers()
        for name, layer, other, optimizer in zip(
            ("left", "right"), (self.left, self.right), (self.right, self.left), optimizers, strict=True
        ):
            self.toggle_optimizer(optimizer)
            loss = (layer(batch[0]) - other(batch[0])).square().mean()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            self.untoggle_optimizer(optimizer)
            self.log(f"{name}_loss", loss)

    def configure_optimizers(self) -> tuple[list[torch.optim.Optimizer], list[Any]]:
        return [torch.optim.SGD(layer.parameters(), lr=0.01) for layer in (self.left, self.right)], []

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(TensorDataset(torch.linspace(0, 1, 160).reshape(-1, 4)), batch_size=2)


class OlderDuel(Duel):
    """The same as a tutorial of Lightning 1.x has it: the error says what to write instead."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = True

    def training_step(self, batch: list[Tensor], batch_idx: int, optimizer_idx: int) -> Tensor:  # type: ignore[override]
        layer = self.left if optimizer_idx == 0 else self.right
        loss: Tensor = layer(batch[0]).square().mean()
        return loss

    def on_epoch_end(self) -> None:
        """Lightning 2 does not call this."""
