"""A run of no consequence, which a standby trainer makes before it is given its own: what is slow only the first time.

The first parse of a config copies the pages that a fork shares with its fork server, the first convolution sets up
oneDNN and OpenMP's threads, the first fit imports what Lightning imports late. A rehearsal goes the whole way of a job:
a config, LightningCLI, a sanity check, an epoch of two batches, a checkpoint. It runs no code of users, and what it
leaves in the process is put back: random numbers, environment, warnings that are given only once.
"""

import contextlib
import os
import random
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_utilities.core.rank_zero import WarningCache
from pytorch_lightning import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from workers.rundir import Order, RunDir
from workers.trainer import parsers, subcommands
from workers.trainer.allow import REHEARSED
from workers.trainer.build import build
from workers.trainer.spool import Spool

LIGHTNING = ("lightning_fabric", "pytorch_lightning")
IMAGES, PIXELS, CLASSES, BATCH = 128, 8, 4, 64


class Piece(LightningModule):
    """The layers that most modules have, in their smallest form."""

    def __init__(self, width: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layers = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(width * (PIXELS // 2) ** 2, CLASSES),
        )
        self.accuracy = MulticlassAccuracy(CLASSES)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """A loss, logged."""
        loss = self._loss(batch)
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """A loss and a metric, logged."""
        self.log("val_loss", self._loss(batch), prog_bar=True)
        self.log("val_acc", self.accuracy)

    def _loss(self, batch: list[Tensor]) -> Tensor:
        images, labels = batch
        logits = self.layers(images)
        self.accuracy(logits, labels)
        return cross_entropy(logits, labels)


class Score(LightningDataModule):
    """Images of noise."""

    def __init__(self, batch_size: int = BATCH) -> None:
        super().__init__()
        self._batch_size = batch_size
        self._data = TensorDataset(torch.randn(IMAGES, 1, PIXELS, PIXELS), torch.arange(IMAGES) % CLASSES)

    def train_dataloader(self) -> DataLoader[Any]:
        """Two batches, shuffled."""
        return DataLoader(self._data, batch_size=self._batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        """The same images."""
        return DataLoader(self._data, batch_size=self._batch_size)


CONFIG: dict[str, Any] = {
    "seed_everything": False,
    "model": {"class_path": REHEARSED[0], "init_args": {"width": 4}},
    "data": {"class_path": REHEARSED[1], "init_args": {"batch_size": BATCH}},
    "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01}},
    "lr_scheduler": {"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": 1}},
    "trainer": {
        "max_epochs": 1,
        "log_every_n_steps": 1,
        "callbacks": [
            {"class_path": "ModelCheckpoint", "init_args": {"monitor": "val_loss", "save_last": True}},
            {"class_path": "EarlyStopping", "init_args": {"monitor": "val_loss"}},
        ],
    },
}


def rehearse(modules: Sequence[str]) -> None:
    """Run it, in a folder that is removed again; `modules` are the catalogue's. Raises what a run raises."""
    with _as_before(), tempfile.TemporaryDirectory(prefix="lightyard-rehearsal-") as folder:
        run = RunDir(Path(folder) / "run")
        order = Order("rehearsal", 1, CONFIG, ["cpu:0"], list(modules), data_locks=folder)
        run.create(order)
        made = build(order, run, Spool(run.spool))
        subcommands.run(made, order)
    parsers.prepare(modules)


@contextlib.contextmanager
def _as_before() -> Iterator[None]:
    torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state(), random.getstate()
    environment = dict(os.environ)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        torch.set_rng_state(torch_state)
        np.random.set_state(numpy_state)
        random.setstate(python_state)
        os.environ.clear()
        os.environ.update(environment)
        for given in _given_once():
            given.clear()


def _given_once() -> Iterator[WarningCache]:
    """What Lightning keeps of the warnings that it gives once in a process: in modules, and in their classes."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in LIGHTNING:
            for value in list(vars(module).values()):
                for kept in (value, *(vars(value).values() if isinstance(value, type) else ())):
                    if isinstance(kept, WarningCache):
                        yield kept
