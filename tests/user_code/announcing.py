"""A module, its data and a callback that print the name of every hook of theirs that is called."""

import functools
import inspect
from typing import Any

import torch
from pytorch_lightning import Callback, LightningDataModule, LightningModule
from pytorch_lightning.core.hooks import CheckpointHooks, DataHooks, ModelHooks
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

ASKED_FOR = {"train_dataloader", "val_dataloader", "test_dataloader", "predict_dataloader", "configure_sharded_model"}
"""Not hooks: what the Trainer asks for where it is defined."""


def announced(*bases: type) -> Any:
    """Has a class print each hook that it has from the bases, and then do as before."""

    def decorate(cls: type) -> type:
        names = {name for base in bases for name in dir(base) if not name.startswith("_")} - ASKED_FOR
        for name in sorted(names):
            if inspect.isfunction(getattr(cls, name)):
                setattr(cls, name, _printing(cls.__name__, name, getattr(cls, name)))
        return cls

    return decorate


def _printing(owner: str, name: str, hook: Any) -> Any:
    @functools.wraps(hook)
    def printing(*arguments: Any, **named: Any) -> Any:
        print(f"hook: {owner}.{name}", flush=True)
        return hook(*arguments, **named)

    return printing


@announced(ModelHooks, DataHooks, CheckpointHooks)
class Module(LightningModule):
    """A layer, trained for nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.layer(batch[0]).mean()

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("loss", self.layer(batch[0]).mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@announced(DataHooks)
class Data(LightningDataModule):
    """Two batches to train with, one to validate."""

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        print("asked: train_dataloader", flush=True)
        return DataLoader(TensorDataset(torch.ones(4, 2)), batch_size=2)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        print("asked: val_dataloader", flush=True)
        return DataLoader(TensorDataset(torch.ones(2, 2)), batch_size=2)


@announced(Callback)
class Watch(Callback):
    """Watches all."""
