"""A classifier of small images whose training loop is its own, written on Lightning Fabric.

Fabric brings devices, ranks and precision; the loop brings everything else. A Lightyard job runs it as it is, and so
does a script of a few lines (`examples/fabric.py`): it imports nothing but torch and Lightning.

Shapes: B images of a batch, C channels, H rows, W columns, K classes.
"""

from typing import Any

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from pytorch_lightning import LightningDataModule
from torch import Tensor, nn
from torch.optim import AdamW
from torch.utils.data import DataLoader, Subset

from models.bounds import Count, Natural, NonNegative, Positive, Probability
from models.vision import ConvStage

Batch = tuple[Tensor, Tensor]
"""Images x_BCHW (float) and labels y_B (int64, 0 … K - 1)."""


class ImageClassifierLoop:
    """Trains a small convolutional network on Fabric, epoch by epoch, and keeps the best epoch's weights.

    Logs `train_loss` at each step and `val_loss`, `val_acc` after each epoch; saves `last.ckpt` after each epoch and
    `best.ckpt` after the best. `state` is all that a checkpoint holds, with the place in the run: the order of an epoch
    follows from `shuffle_seed` and the epoch alone, so a run that goes on from a place makes the same order again and
    passes over the batches that it has seen.
    """

    state: dict[str, Any]
    """What `fabric.save` writes and `fabric.load` puts back."""
    max_steps: int
    """Steps of a whole run, for who shows its progress."""

    def __init__(
        self,
        data: LightningDataModule,
        in_channels: Count = 1,
        num_classes: Count = 10,
        width: Count = 16,
        dropout: Probability = 0.2,
        epochs: Count = 6,
        lr: Positive = 5e-3,
        weight_decay: NonNegative = 1e-2,
        shuffle_seed: Natural = 0,
    ) -> None:
        """Remember what to train; the network is made when the loop runs.

        Args:
            data: Where the images come from: its `train_dataloader` and `val_dataloader` say data sets and batch sizes.
            in_channels: Channels of the images: 1 for grey, 3 for colour.
            num_classes: Number of classes; labels are 0 … num_classes - 1.
            width: Channels of the first stage; the second has twice as many.
            dropout: Share of the features that training leaves out before the last layer.
            epochs: Times to go through the training images.
            lr: Learning rate of AdamW.
            weight_decay: Weight decay of AdamW.
            shuffle_seed: Seed of the order of the images, apart from `seed_everything`.
        """
        self.data = data
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.width = width
        self.dropout = dropout
        self.epochs = epochs
        self.lr = lr
        self.weight_decay = weight_decay
        self.shuffle_seed = shuffle_seed

    def run(self, fabric: Fabric, ckpt_path: str | None = None) -> None:
        """Train from the beginning, or go on from a checkpoint of an earlier run, to the last epoch."""
        with fabric.rank_zero_first(local=True):
            self.data.prepare_data()
        self.data.setup("fit")
        network = self._network()
        optimizer = AdamW(network.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        network, optimizer = fabric.setup(network, optimizer)
        self.state = {"model": network, "optimizer": optimizer, "epoch": 0, "batch": 0, "global_step": 0, "best": 0.0}
        self.max_steps = self.epochs * len(self._batches(fabric, epoch=0))
        if ckpt_path is not None:
            fabric.load(ckpt_path, self.state, weights_only=True)

        fabric.call("on_train_start")
        while self.state["epoch"] < self.epochs:
            fabric.call("on_train_epoch_start")
            self._train(fabric)
            accuracy = self._validate(fabric)
            is_best = accuracy > self.state["best"]
            self.state |= {"epoch": self.state["epoch"] + 1, "batch": 0, "best": max(accuracy, self.state["best"])}
            fabric.save("last.ckpt", self.state)
            if is_best:
                fabric.save("best.ckpt", self.state)
            fabric.print(f"epoch {self.state['epoch']} of {self.epochs}: {accuracy:.1%} right")
        fabric.call("on_train_end")

    def _train(self, fabric: Fabric) -> None:
        """The rest of an epoch."""
        state, network, optimizer = self.state, self.state["model"], self.state["optimizer"]
        rest = self._batches(fabric, state["epoch"])[state["batch"] :]
        # The sampler is ours and knows the ranks already.
        loader = DataLoader(self.data.train_dataloader().dataset, batch_sampler=rest)
        for batch in fabric.setup_dataloaders(loader, use_distributed_sampler=False):
            fabric.call("on_train_batch_start", batch=batch, batch_idx=state["batch"])
            x_BCHW, y_B = batch
            loss = F.cross_entropy(network(x_BCHW), y_B)
            optimizer.zero_grad()
            fabric.backward(loss)
            optimizer.step()
            fabric.log_dict({"train_loss": loss}, step=state["global_step"])
            # The place first, then the call: what hears it may save the state, or end the run here.
            state["batch"] += 1
            state["global_step"] += 1
            fabric.call("on_train_batch_end", outputs=loss, batch=batch, batch_idx=state["batch"] - 1)
        fabric.call("on_train_epoch_end")

    @torch.no_grad()
    def _validate(self, fabric: Fabric) -> float:
        """The share of the validation images that are told right."""
        fabric.call("on_validation_start")
        network = self.state["model"].eval()
        given = self.data.val_dataloader()
        mine = Subset(given.dataset, range(fabric.global_rank, len(given.dataset), fabric.world_size))
        loader = DataLoader(mine, batch_size=given.batch_size)
        sums = torch.zeros(3, dtype=torch.float64, device=fabric.device)  # of losses, of right answers, of images
        for batch in fabric.setup_dataloaders(loader, use_distributed_sampler=False):
            x_BCHW, y_B = batch
            logits_BK = network(x_BCHW)
            loss = F.cross_entropy(logits_BK, y_B, reduction="sum")
            sums += torch.stack([loss, (logits_BK.argmax(dim=1) == y_B).sum(), torch.tensor(len(y_B))]).to(sums)
            fabric.call("on_validation_batch_end", batch=batch)
        fabric.all_reduce(sums, reduce_op="sum")
        loss_sum, right, count = map(float, sums)
        network.train()
        fabric.log_dict({"val_loss": loss_sum / count, "val_acc": right / count}, step=self.state["global_step"] - 1)
        fabric.call("on_validation_end")
        return right / count

    def _batches(self, fabric: Fabric, epoch: int) -> list[list[int]]:
        """The batches of an epoch on one rank, as indices of images: all of them full, and on every rank as many."""
        loader = self.data.train_dataloader()
        order = torch.randperm(len(loader.dataset), generator=torch.Generator().manual_seed(self.shuffle_seed + epoch))
        mine = order[fabric.global_rank :: fabric.world_size].tolist()
        size, most = loader.batch_size, len(order) // fabric.world_size
        return [mine[start : start + size] for start in range(0, most - most % size, size)]

    def _network(self) -> nn.Module:
        """Logits (B, K) of images of 4 × 4 pixels or more."""
        return nn.Sequential(
            ConvStage(self.in_channels, self.width),
            ConvStage(self.width, 2 * self.width),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(self.dropout),
            nn.Linear(2 * self.width, self.num_classes),
        )
