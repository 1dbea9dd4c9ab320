"""The least that trains: a loss, an optimizer, data."""

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class Line(LightningModule):
    """Fits y = 3x with one weight and one bias; `training_step` returns the loss, Lightning does the rest."""

    def __init__(self, lr: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.lr = lr
        self.layer = nn.Linear(1, 1)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x_B1, y_B1 = batch
        loss = F.mse_loss(self.layer(x_B1), y_B1)
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr)

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        x_B1 = torch.linspace(-1, 1, 64).reshape(-1, 1)
        return DataLoader(TensorDataset(x_B1, 3 * x_B1), batch_size=4)


class ValidatedLine(Line):
    """The same with a validation; `broken` makes it raise, as a typing mistake would."""

    def __init__(self, lr: float = 0.1, broken: bool = False) -> None:
        super().__init__(lr)
        self.broken = broken

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        x_B1, y_B1 = batch
        if self.broken:
            y_B1 = y_B1.reshape(-1, 3)
        loss = F.mse_loss(self.layer(x_B1), y_B1)
        self.log("val_loss", loss)
        if self.logger is not None:
            self.logger.log_metrics({"by_hand": float(loss)})  # past self.log, as some code does

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return self.train_dataloader()


class Silent(Line):
    """Forgets to return the loss."""

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:  # type: ignore[override]
        super().training_step(batch, batch_idx)
