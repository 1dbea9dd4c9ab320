"""All that a module can log, on a line with noise: values per step and epoch, pictures, histograms, texts."""

from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanAbsoluteError, MeanSquaredError, MetricCollection


class Diary(LightningModule):
    """Fits a line, and logs as it goes. `steps` is how many steps an epoch has."""

    def __init__(self, lr: float = 0.1, steps: int = 5) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer = nn.Linear(1, 1)
        self.errors = MetricCollection({"mse": MeanSquaredError(), "mae": MeanAbsoluteError()}, prefix="val_")

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Log the loss per step and per epoch, its largest of the epoch, and two values at once."""
        x, y = batch
        loss = nn.functional.mse_loss(self.layer(x), y)
        self.log("loss", loss, on_step=True, on_epoch=True, prog_bar=True)
        self.log("largest", loss, on_step=False, on_epoch=True, reduce_fx="max")
        self.log_dict({"weight": self.layer.weight.mean(), "bias": self.layer.bias.mean()})
        if self.logger is not None:
            experiment: Any = self.logger.experiment
            experiment.add_histogram("weights", self.layer.weight, self.global_step)
            experiment.add_scalar("batches", batch_idx, self.global_step)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Two loaders: each has a value of its own, and a collection of metrics over both."""
        x, y = batch
        self.log("val_loss", nn.functional.mse_loss(self.layer(x), y))
        self.errors.update(self.layer(x), y)

    def on_validation_epoch_end(self) -> None:
        """Log the collection, a picture of the line, and what there is to say."""
        self.log_dict(self.errors.compute())
        self.errors.reset()
        if self.logger is None:
            return
        experiment: Any = self.logger.experiment
        x = torch.linspace(-1, 1, 64)
        height_H = torch.linspace(2, -2, 48)
        line = self.layer(x[:, None].to(self.device)).detach().cpu().flatten()
        picture_HW = (height_H[:, None] - line[None]).abs() < 0.1
        experiment.add_image("line/now", picture_HW.float(), self.current_epoch, dataformats="HW")
        experiment.add_images("line/twice", torch.stack([picture_HW, ~picture_HW]).float()[:, None], self.current_epoch)
        experiment.add_text("note", f"After epoch {self.current_epoch}: **{float(line[-1]):.3f}** at 1.")
        experiment.add_audio("tone", torch.sin(torch.arange(800) / 8), self.current_epoch, sample_rate=8000)
        experiment.add_video("film", torch.zeros(1, 2, 3, 4, 4))  # not kept: an event says so, once

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain gradient descent."""
        return torch.optim.SGD(self.parameters(), lr=self.hparams["lr"])

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Eight points a step."""
        return DataLoader(points(8 * self.hparams["steps"]), batch_size=8, shuffle=True)

    def val_dataloader(self) -> list[DataLoader[tuple[Tensor, ...]]]:
        """Two sets."""
        return [DataLoader(points(8), batch_size=8), DataLoader(points(16), batch_size=8)]


def points(count: int) -> TensorDataset:
    """Points near the line y = 1.5 x − 0.5."""
    x = torch.linspace(-1, 1, count)[:, None]
    return TensorDataset(x, 1.5 * x - 0.5 + 0.1 * torch.sin(40 * x))
