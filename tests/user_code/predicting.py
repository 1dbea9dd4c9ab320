"""A module that predicts in forms of its own, on loaders that tell which sample is which."""

import time
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset


class Numbers(Dataset[Tensor]):
    """0, 1, 2 …"""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        return torch.tensor([float(index)])


class Predicting(LightningModule):
    """Doubles the numbers of each loader; `form` is what it returns them in."""

    def __init__(self, form: str = "tensor", loaders: int = 1, count: int = 7, step_seconds: float = 0.0) -> None:
        super().__init__()
        self.form = form
        self.loaders = loaders
        self.count = count
        self.step_seconds = step_seconds
        self.layer = nn.Linear(1, 1)

    def predict_step(self, batch: Tensor, batch_idx: int, dataloader_idx: int = 0) -> Any:
        time.sleep(self.step_seconds)
        doubled = 2 * batch
        forms = {
            "tensor": doubled,
            "view": torch.cat([doubled, torch.zeros(len(batch), 10_000)], dim=1)[:, :1],
            "dict": {"value": doubled[:, 0], "name": [str(int(number)) for number in batch], "odd": doubled / 0 * 0},
            "batch": doubled.sum(),
            "large": doubled.expand(-1, 1001),
            "nothing": None,
            "object": object(),
        }
        return forms[self.form]

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        time.sleep(self.step_seconds)
        self.log("mean", batch.mean())

    def predict_dataloader(self) -> Any:
        made = [DataLoader(Numbers(self.count + number), batch_size=3) for number in range(self.loaders)]
        return made if self.loaders > 1 else made[0]

    def test_dataloader(self) -> Any:
        return DataLoader(Numbers(self.count), batch_size=1)
