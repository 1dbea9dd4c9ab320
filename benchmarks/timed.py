"""Modules that note, within the loop, when their steps begin and end: for jobs and for runs by hand alike."""

import json
import time
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, TensorDataset

FEATURES = 16
BATCH_SIZE = 8
WIDTH = 768
"""Of the square matrices whose product is a step of `Heavy`."""


class Tiny(LightningModule):
    """A step that takes less than a millisecond and logs two values.

    `stamps` is the file that gets the seconds, by the clock and of the processor, from the beginning of step `first`
    to that of step `last`, which is the last one.
    """

    def __init__(self, stamps: str, first: int, last: int) -> None:
        super().__init__()
        self.layer = nn.Linear(FEATURES, 1)
        self._stamps = Path(stamps)
        self._first = first
        self._last = last
        self._began = (0.0, 0.0)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """One step."""
        if batch_idx == self._first:
            self._began = time.perf_counter(), time.process_time()
        elif batch_idx == self._last:
            wall, processor = time.perf_counter() - self._began[0], time.process_time() - self._began[1]
            self._stamps.write_text(json.dumps([wall, processor]))
        inputs, targets = batch
        loss = mse_loss(self.layer(inputs), targets)
        self.log("loss", loss)
        self.log("scale", inputs[0, 0])
        return loss

    def train_dataloader(self) -> DataLoader[Any]:
        """As many batches as steps are asked for."""
        size = (self._last + 1) * BATCH_SIZE
        return DataLoader(TensorDataset(torch.randn(size, FEATURES), torch.randn(size, 1)), batch_size=BATCH_SIZE)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Nothing that costs."""
        return torch.optim.SGD(self.parameters(), lr=0.01)


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
