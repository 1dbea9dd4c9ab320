"""A user's data modules that prepare data for as long as a test likes, alone, and in all the ways that go wrong."""

import errno
import os
import socket
import sys
import time
import urllib.error
from email.message import Message
from pathlib import Path
from typing import Literal

import torch
from pytorch_lightning import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

What = Literal[
    "nothing",
    "raise",
    "exit",
    "reset",
    "busy",
    "timeout",
    "unreachable",
    "missing",
    "unknown_host",
    "full",
    "memory",
    "setup",
]


def prepare(folder: Path, name: str) -> None:
    """Make a file, once the gate is open; nobody else may be at it."""
    if (folder / f"made-{name}").exists():
        return
    (folder / f"entered-{os.getpid()}").touch()
    print("preparing", flush=True)
    while not (folder / "gate").exists():
        time.sleep(0.01)
    (folder / f"made-{name}").touch(exist_ok=False)


class Gated(LightningDataModule):
    def __init__(self, folder: str, name: str = "data", batch_size: int = 2, what: What = "nothing") -> None:
        super().__init__()
        self.folder = Path(folder)
        self.name = name
        self.batch_size = batch_size
        self.what = what

    def prepare_data(self) -> None:
        if self.what not in ("nothing", "setup"):
            fail(self.what)
        prepare(self.folder, self.name)

    def setup(self, stage: str) -> None:
        if self.what == "setup":
            raise ValueError("not while preparing")

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(TensorDataset(torch.arange(8.0).reshape(-1, 1)), batch_size=self.batch_size)


class Line(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss: Tensor = self.layer(batch[0]).square().mean()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Self(Line):
    """Has its data itself."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder = Path(folder)

    def prepare_data(self) -> None:
        prepare(self.folder, "own")

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(TensorDataset(torch.arange(8.0).reshape(-1, 1)), batch_size=2)


def fail(what: What) -> None:
    match what:
        case "raise":
            raise ValueError("the file is not what it was")
        case "exit":
            sys.exit(3)
        case "reset":
            try:
                raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
            except OSError:
                raise RuntimeError("no download")  # noqa: B904  # as code does that knows no better
        case "busy" | "missing":
            status = 503 if what == "busy" else 404
            raise urllib.error.HTTPError("http://data.example/x", status, "so it is", Message(), None)
        case "timeout":
            raise TimeoutError("timed out")
        case "unreachable":
            raise OSError(errno.EHOSTUNREACH, "No route to host")
        case "unknown_host":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        case "full":
            raise OSError(errno.ENOSPC, "No space left on device")
        case "memory":
            raise MemoryError
