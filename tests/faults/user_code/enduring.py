"""Modules that are trained while parts of the service fail: slow in steps, random in all they can be, and they tell.

Every training step appends a line to the job's fence file before it computes anything: who trains what, and when. The
file lies outside the run directory, and Lightyard knows nothing of it.
"""

import os
import random
import re
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchmetrics import MeanSquaredError

EPOCHS = 4


class Noisy(Dataset[tuple[Tensor, Tensor]]):
    """Each item is changed at random when it is fetched, by all three generators."""

    def __init__(self, items: int) -> None:
        self.items = items

    def __len__(self) -> int:
        return self.items

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        noise = torch.randn(4) * 0.1 + random.random() * 0.1 + float(np.random.rand()) * 0.1
        x = torch.full((4,), index / self.items) + noise
        return x, x.sum().reshape(1)


class Fenced(LightningModule):
    """Takes at least `step_seconds` for a batch of 4; an epoch has `batches`. `fence`: the file to append to."""

    def __init__(self, batches: int, step_seconds: float, fence: str | None, num_workers: int) -> None:
        super().__init__()
        self.batches = batches
        self.step_seconds = step_seconds
        self.fence = fence
        self.num_workers = num_workers

    def tell(self) -> None:
        """Append `attempt step monotonic pid` to the fence, in one write; then take the time that a step takes."""
        found = re.search(r"/attempt-(\d+)(/|$)", str(Path.cwd()))
        attempt = int(found[1]) if found else 0
        step = self.trainer.fit_loop.epoch_loop._batches_that_stepped
        if self.fence:
            descriptor = os.open(self.fence, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            os.write(descriptor, f"{attempt} {step} {time.monotonic():.6f} {os.getpid()}\n".encode())
            os.close(descriptor)
        self.log("attempt", float(attempt), on_step=True)
        time.sleep(self.step_seconds)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Noisy(self.batches * 4), batch_size=4, shuffle=True, num_workers=self.num_workers)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Noisy(16), batch_size=8)


class Dropping(Fenced):
    """Dropout, shuffled batches from worker processes, a metric gathered over the epoch, a moving average in a hook."""

    average: Tensor

    def __init__(
        self, batches: int = 40, step_seconds: float = 0.0, fence: str | None = None, num_workers: int = 2
    ) -> None:
        super().__init__(batches, step_seconds, fence, num_workers)
        self.net = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.5), nn.ReLU(), nn.Linear(16, 1))
        self.error = MeanSquaredError()
        self.register_buffer("average", torch.zeros(()))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        self.tell()
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

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.01)


class Adversaries(Fenced):
    """Two optimizers, optimized by hand."""

    def __init__(
        self, batches: int = 40, step_seconds: float = 0.0, fence: str | None = None, num_workers: int = 0
    ) -> None:
        super().__init__(batches, step_seconds, fence, num_workers)
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 4))
        self.critic = nn.Sequential(nn.Linear(4, 8), nn.LeakyReLU(), nn.Linear(8, 1))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.tell()
        generate, judge = cast(list[LightningOptimizer], self.optimizers())
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
        self.log("val_loss", self.critic(self.generator(torch.randn(len(batch[0]), 2))).mean())

    def configure_optimizers(self) -> Any:
        return [
            torch.optim.Adam(self.generator.parameters(), lr=0.01),
            torch.optim.Adam(self.critic.parameters(), lr=0.01),
        ]


class Accumulating(Fenced):
    """For gradients accumulated over batches, under a cosine schedule."""

    def __init__(
        self, batches: int = 40, step_seconds: float = 0.0, fence: str | None = None, num_workers: int = 0
    ) -> None:
        super().__init__(batches, step_seconds, fence, num_workers)
        self.net = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.2), nn.Tanh(), nn.Linear(16, 1))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        self.tell()
        loss = nn.functional.mse_loss(self.net(batch[0]), batch[1])
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_loss", nn.functional.mse_loss(self.net(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20 * EPOCHS)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
