"""A run whose loss curve does not depend on how many devices share its batches."""

from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler

from models.data import Digits

Batch = tuple[Tensor, Tensor]


class DealtOut(Digits):
    """The digits in an order that is dealt out to all ranks: together they see at each step what one device would see.

    Lightning's own sampler deals out as well, but on one device there is none, and its order is another.
    """

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        ranks, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        sampler: DistributedSampler[tuple[Tensor, ...]] = DistributedSampler(self.train_set, ranks, rank, seed=11)
        # The last batch of an epoch is padded where ranks cannot have as many images: without it all are the same.
        return DataLoader(self.train_set, batch_size=self.batch_size, sampler=sampler, drop_last=True)


class Perceptron(LightningModule):
    """One hidden layer, nothing random, and no statistics over a batch, which every rank would have of its own."""

    def __init__(self, lr: float = 0.5) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.lr = lr
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))

    def on_train_start(self) -> None:
        loader = self.trainer.train_dataloader
        assert isinstance(loader, DataLoader)
        sampler: Any = loader.sampler
        print(
            f"rank {self.global_rank} of {self.trainer.world_size}: {len(sampler)} images by {type(sampler).__name__}"
        )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        x_BCHW, y_B = batch
        loss = F.cross_entropy(self.net(x_BCHW), y_B)
        self.log("loss", loss, sync_dist=True)  # the mean over all ranks: the loss of the whole batch
        self.log("loss_of_rank_0", loss)  # without sync_dist the first rank logs its own
        self.log("images", float(len(y_B)), sync_dist=True, reduce_fx="sum")
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        x_BCHW, y_B = batch
        loss = F.cross_entropy(self.net(x_BCHW), y_B)
        self.log("val_loss", loss, sync_dist=True, batch_size=len(y_B))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr)
