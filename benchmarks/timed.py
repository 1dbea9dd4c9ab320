"""Modules that note, within the loop, when their steps begin and end: for jobs and for runs by hand alike."""

import json
import mmap
import time
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, Dataset, TensorDataset

FEATURES = 16
BATCH_SIZE = 8
DIFFERENT = 1024
WIDTH = 768
"""Of the square matrices whose product is a step of `Heavy`."""


class Tiny(LightningModule):
    """A step that takes a millisecond or so and logs two values; it goes on for ever.

    `counter` is the file that says, in its first 8 bytes, how many steps have begun.
    """

    def __init__(self, counter: str) -> None:
        super().__init__()
        self.layer = nn.Linear(FEATURES, 1)
        self._counter = mapped(Path(counter))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """One step."""
        self._counter[0] = batch_idx
        inputs, targets = batch
        loss = mse_loss(self.layer(inputs), targets)
        self.log("loss", loss)
        self.log("scale", inputs[0, 0])
        return loss

    def train_dataloader(self) -> DataLoader[Any]:
        """The same few rows again and again."""
        return DataLoader(Rows(), batch_size=BATCH_SIZE)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Nothing that costs."""
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Rows(Dataset[tuple[Tensor, Tensor]]):
    """More rows than anybody reads, some of them different."""

    def __init__(self) -> None:
        self._inputs, self._targets = torch.randn(DIFFERENT, FEATURES), torch.randn(DIFFERENT, 1)

    def __len__(self) -> int:
        return BATCH_SIZE * 10**9

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        row = index % DIFFERENT
        return self._inputs[row], self._targets[row]


def mapped(path: Path) -> memoryview:
    """A file of one whole number, in memory: written to within a training step, read by whoever counts."""
    path.touch()
    with path.open("r+b") as file:
        file.truncate(8)
        return memoryview(mmap.mmap(file.fileno(), 8)).cast("q")


class Heavy(LightningModule):
    """A module of `size_bytes`, of which next to nothing is trained, with steps of some milliseconds.

    `stamps` is the file that gets the beginning and the end of each training_step, in seconds.
    """

    ballast: Tensor

    def __init__(self, stamps: str, size_bytes: int, steps: int) -> None:
        super().__init__()
        self.register_buffer("ballast", torch.full((size_bytes // 4,), 0.5))
        self.layer = nn.Linear(WIDTH, 1)
        self._path = Path(stamps)
        self._steps = steps
        self._stamps: list[tuple[float, float]] = []

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """One step; x, a square matrix."""
        began = time.perf_counter()
        matrix = batch[0][0]
        loss: Tensor = self.layer(matrix @ matrix).square().mean()
        self._stamps.append((began, time.perf_counter()))
        return loss

    def train_dataloader(self) -> DataLoader[Any]:
        """The same matrix at each step."""
        matrix = torch.eye(WIDTH).expand(self._steps, WIDTH, WIDTH)
        return DataLoader(TensorDataset(matrix), batch_size=1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Nothing that costs."""
        return torch.optim.SGD(self.layer.parameters(), lr=1e-6)

    def on_train_end(self) -> None:
        """Leave the stamps."""
        self._path.write_text(json.dumps(self._stamps))
