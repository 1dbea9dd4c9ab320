"""Modules whose results show it if a resumed run differs from an undisturbed one in anything."""

import os
import random
import signal
from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchmetrics import MeanSquaredError


class Noisy(Dataset[tuple[Tensor, Tensor]]):
    """Each item is changed at random when it is fetched, by all three generators."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        noise = torch.randn(4) * 0.1 + random.random() * 0.1 + float(np.random.rand()) * 0.1
        x = torch.full((4,), index / 40) + noise
        return x, x.sum().reshape(1)


class Mortal(LightningModule):
    """Kills its process in the training step of number `dies_at`, counted over the whole run; -1: lives."""

    def __init__(self, dies_at: int, num_workers: int) -> None:
        super().__init__()
        self.dies_at = dies_at
        self.num_workers = num_workers

    def maybe_die(self) -> None:
        if self.trainer.fit_loop.epoch_loop.total_batch_idx == self.dies_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Noisy(), batch_size=4, shuffle=True, num_workers=self.num_workers)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Noisy(), batch_size=8)


class Dropping(Mortal):
    """Dropout, a metric gathered over the epoch, a moving average kept in a hook behind the step."""

    def __init__(self, dies_at: int = -1, num_workers: int = 0) -> None:
        super().__init__(dies_at, num_workers)
        self.net = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.5), nn.ReLU(), nn.Linear(16, 1))
        self.error = MeanSquaredError()
        self.register_buffer("average", torch.zeros(()))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        self.maybe_die()
        predicted = self.net(batch[0])
        loss = nn.functional.mse_loss(predicted, batch[1])
        self.error(predicted, batch[1])
        self.log("loss", loss, on_step=True, on_epoch=True)
        self.log("error", self.error, on_step=False, on_epoch=True)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.average = 0.9 * self.average + 0.1 * outputs["loss"] + 0.01 * torch.rand(())

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_loss", nn.functional.mse_loss(self.net(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=30)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Adversaries(Mortal):
    """Two optimizers, optimized by hand."""

    def __init__(self, dies_at: int = -1, num_workers: int = 0) -> None:
        super().__init__(dies_at, num_workers)
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 4))
        self.critic = nn.Sequential(nn.Linear(4, 8), nn.LeakyReLU(), nn.Linear(8, 1))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.maybe_die()
        generate, judge = self.optimizers()  # type: ignore[misc]
        false = self.generator(torch.randn(len(batch[0]), 2))
        judged = self.critic(batch[0]).mean() - self.critic(false.detach()).mean()
        judge.zero_grad()
        self.manual_backward(judged)
        judge.step()
        made = self.critic(false).mean()
        generate.zero_grad()
        self.manual_backward(made)
        generate.step()
        self.log_dict({"judged": judged, "made": made}, on_step=True, on_epoch=True)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_made", self.critic(self.generator(torch.randn(len(batch[0]), 2))).mean())

    def configure_optimizers(self) -> Any:
        return [
            torch.optim.Adam(self.generator.parameters(), lr=0.01),
            torch.optim.Adam(self.critic.parameters(), lr=0.01),
        ]
