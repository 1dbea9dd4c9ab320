"""Aggregating over an epoch by hand, in the hooks, with torchmetrics."""

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics import MaxMetric, MeanMetric

from lessons.logging import points


class Aggregate(LightningModule):
    """Fits a line, and logs at the end of each epoch what it gathered in its steps. `steps` is how many that has."""

    def __init__(self, lr: float = 0.1, steps: int = 5) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer = nn.Linear(1, 1)
        self.error = MeanMetric()
        self.worst = MaxMetric()
        self.residuals: list[Tensor] = []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Gather; nothing is logged here."""
        x, y = batch
        residual_B1 = self.layer(x) - y
        self.error.update(residual_B1.detach().abs())
        self.worst.update(residual_B1.detach().abs())
        self.residuals.append(residual_B1.detach().flatten())
        return residual_B1.square().mean()

    def on_train_epoch_end(self) -> None:
        """Log once for the epoch, then begin anew. What 1.x's `training_epoch_end` got as `outputs` is kept by hand."""
        self.log("train_error", self.error.compute())
        self.log("train_worst", self.worst.compute())
        self.log("train_median", torch.cat(self.residuals).abs().median())
        self.error.reset()
        self.worst.reset()
        self.residuals.clear()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain gradient descent."""
        return torch.optim.SGD(self.parameters(), lr=self.hparams["lr"])

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Eight points a step."""
        return DataLoader(points(8 * self.hparams["steps"]), batch_size=8, shuffle=True)
