"""A user's own module, as `LIGHTYARD_CATALOG_MODULES` names it: a small network that can be told to misbehave."""

import ctypes
import os
import signal
import sys
import time
from pathlib import Path
from typing import Literal

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

What = Literal[
    "nothing",
    "raise",
    "segfault",
    "exit",
    "sys_exit",
    "eat_memory",
    "out_of_memory",
    "gpu_memory",
    "hang",
    "die",
    "no_space",
]


class Net(LightningModule):
    """A linear layer on 4 features; `what` happens in the training step of that number.

    Each step takes `step_seconds` at least. An epoch has `batches` batches of 2.
    """

    def __init__(
        self,
        what: What = "nothing",
        at_step: int = 0,
        step_seconds: float = 0.0,
        batches: int = 1,
        once: str | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.what = what
        self.at_step = at_step
        self.step_seconds = step_seconds
        self.batches = batches
        self.once = once
        self.layer = nn.Linear(4, 1)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        if self.step_seconds:
            time.sleep(self.step_seconds)
        if self.global_step == self.at_step and self._first_time():
            misbehave(self.what)
        loss: Tensor = self.layer(batch[0]).square().mean()
        self.log("loss", loss)
        self.log("rank", float(self.global_rank))
        return loss

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        features = torch.arange(self.batches * 8, dtype=torch.float32).reshape(-1, 4) / 10
        return DataLoader(TensorDataset(features), batch_size=2)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)

    def _first_time(self) -> bool:
        if self.once is None:
            return True
        try:
            os.close(os.open(self.once, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True


class OneRank(Net):
    """A network of which one rank alone misbehaves."""

    def __init__(self, what: What = "nothing", rank: int = 1, batches: int = 4, once: str | None = None) -> None:
        super().__init__(what, batches=batches, once=once)
        self.rank = rank

    def _first_time(self) -> bool:
        return self.global_rank == self.rank and super()._first_time()


class Patient(Net):
    """Waits in step `at_step`, the first time, until the service tells it something or `gate` lies beside `once`.

    Who asks something of the job is never too late then, and no step need be slow. `once` is there while it waits.
    """

    def __init__(self, once: str, at_step: int, batches: int) -> None:
        super().__init__(once=once, at_step=at_step, batches=batches)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        if self.global_step == self.at_step and self._first_time():
            told, gate = Path("..", "control"), Path(self.once or "").with_name("gate")
            while not told.exists() and not gate.exists():
                time.sleep(0.01)
        return super().training_step(batch, batch_idx)


class Curious(Net):
    """Prints what it can see of the service that runs it."""

    def on_train_start(self) -> None:
        for name in sorted(os.environ):
            print(f"environment: {name}")
        print(f"device: {self.device}")
        print(f"cuda: {os.environ.get('CUDA_VISIBLE_DEVICES')!r}")


class Plain(nn.Module):
    """No LightningModule: nothing that can be trained by itself."""


def misbehave(what: What) -> None:
    match what:
        case "nothing":
            return
        case "raise":
            raise ValueError("the user's own mistake")
        case "segfault":
            ctypes.string_at(0)
        case "exit":
            os._exit(3)
        case "sys_exit":
            sys.exit("enough")
        case "eat_memory":
            hoard = []
            while True:
                hoard.append(torch.ones(2**23))
                time.sleep(0.01)
        case "out_of_memory":
            torch.empty(2**50)
        case "gpu_memory":
            torch.empty(2**50, device="cuda")
        case "hang":
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT])
            while True:
                time.sleep(60)
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "no_space":
            raise OSError(28, "No space left on device")
