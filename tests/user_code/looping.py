"""Loops on Fabric that keep their place in as many ways as people do, to be stopped and gone on with anywhere."""

import json
import random
import time
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Plain:
    """Shuffles by the generator that everybody shares, and passes over what it has seen; sums gradients of batches.

    It knows nothing of the service. `stop_in_validation` is the epoch in whose validation it is to be stopped.
    """

    def __init__(
        self,
        epochs: int = 3,
        accumulate: int = 1,
        stop_in_validation: int = -1,
        removes: bool = False,
        nan_at: int = -1,
        step_seconds: float = 0.0,
    ) -> None:
        self.epochs = epochs
        self.accumulate = accumulate
        self.stop_in_validation = stop_in_validation
        self.removes = removes
        self.nan_at = nan_at
        self.step_seconds = step_seconds
        self.dice = random.Random(5)

    def run(self, fabric: Fabric, ckpt_path: str | None = None) -> None:
        if self.epochs < 0:
            raise ValueError(f"{self.epochs} epochs")
        x = torch.arange(48.0).reshape(12, 4) / 48
        loader = fabric.setup_dataloaders(DataLoader(TensorDataset(x, x.sum(1)), batch_size=2, shuffle=True))
        model, optimizer = fabric.setup(*_net())
        self.state: dict[str, Any] = {"model": model, "optimizer": optimizer, "epoch": 0, "batch": 0, "global_step": 0}
        if ckpt_path:
            fabric.load(ckpt_path, self.state)
        for epoch in range(self.state["epoch"], self.epochs):
            fabric.call("on_train_epoch_start")
            for index, (one, target) in enumerate(loader):
                if index < self.state["batch"]:
                    continue
                fabric.call("on_train_batch_start", batch=one, batch_idx=index)
                torch.rand(1 + fabric.global_rank)  # ranks draw as they need
                time.sleep(self.step_seconds)
                loss = (model(one).squeeze(1) - target).square().mean() * (1 + self.dice.random())
                if self.state["global_step"] == self.nan_at:
                    loss = loss * torch.nan
                fabric.backward(loss / self.accumulate)
                fabric.log("loss", loss, step=self.state["global_step"])
                self.state["batch"] = index + 1
                if (index + 1) % self.accumulate == 0:
                    optimizer.step()
                    optimizer.zero_grad()
                    self.state["global_step"] += 1
                fabric.call("on_train_batch_end")
            self._validate(fabric, epoch)
            self.state |= {"epoch": epoch + 1, "batch": 0}
            if self.removes and epoch > 0:
                Path(f"epochs/{epoch - 1}.ckpt").unlink()
            fabric.save(f"epochs/{epoch}.ckpt", self.state)
        fabric.save("last.ckpt", self.state)

    def _validate(self, fabric: Fabric, epoch: int) -> None:
        fabric.call("on_validation_start")
        for index in range(3):
            if epoch == self.stop_in_validation and index == 1:
                Path("../control").write_text(json.dumps({"stop": True, "saves": 0}))
            fabric.log("noise", torch.rand(()), step=3 * epoch + index)
            fabric.call("on_validation_batch_end")
        fabric.call("on_validation_end")


class Bare:
    """Makes its data as it goes, says nothing but that a step is over, and gives its state by a method."""

    def run(self, fabric: Fabric, ckpt_path: str | None = None) -> None:
        self.model, self.optimizer = fabric.setup(*_net())
        self.step = 0
        if ckpt_path:
            state = self.state()
            fabric.load(ckpt_path, state)
            self.step = state["step"]
        while self.step < 8:
            self.optimizer.zero_grad()
            loss = self.model(torch.rand(2, 4)).sum()
            fabric.backward(loss)
            self.optimizer.step()
            fabric.log("loss", loss)
            self.step += 1
            fabric.call("on_train_batch_end")
        fabric.save("last.ckpt", self.state())

    def state(self) -> dict[str, Any]:
        return {"model": self.model, "optimizer": self.optimizer, "step": self.step}


class Deaf:
    """Calls no hook."""

    def __init__(self, steps: int = 60) -> None:
        self.steps = steps

    def run(self, fabric: Fabric) -> None:
        model, optimizer = fabric.setup(*_net())
        for _ in range(self.steps):
            optimizer.zero_grad()
            fabric.backward(model(torch.ones(2, 4)).sum())
            optimizer.step()


class Listener:
    """A callback: an object with some methods that a loop calls."""

    def __init__(self, says: str) -> None:
        self.says = says

    def on_train_batch_end(self) -> None:
        print(self.says)


def _net() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))
    return model, torch.optim.Adam(model.parameters(), lr=0.05)
