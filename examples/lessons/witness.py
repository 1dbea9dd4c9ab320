"""A module that watches what the Trainer's flags do to it, and prints what it saw into the log."""

import json
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

BATCHES, BATCH_SIZE = 8, 4


class Witness(LightningModule):
    """Linear regression on noise. With `stops`, it asks the Trainer to stop in its first step."""

    def __init__(self, stops: bool = False, lr: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.stops = stops
        self.lr = lr
        self.net = nn.Linear(4, 1)
        self.seen: dict[str, Any] = {"batches": {"train": 0, "val": 0, "sanity": 0, "test": 0, "predict": 0}}
        self.seen |= {"loaders_asked_for": 0, "largest_gradient": 0.0, "first_samples": []}

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        self.seen["batches"]["train"] += 1
        self.seen["training"] = {
            "autocast": str(torch.get_autocast_dtype("cpu")) if torch.is_autocast_enabled("cpu") else None,
            "detects_anomalies": torch.is_anomaly_enabled(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "benchmark": torch.backends.cudnn.benchmark,
            "weights": str(self.net.weight.dtype),
        }
        if batch_idx == 0:
            self.seen["first_samples"].append(round(float(batch[0][0, 0]), 4))
        if self.stops:
            self.trainer.should_stop = True
        loss = nn.functional.mse_loss(self.net(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def configure_gradient_clipping(self, *arguments: Any, **options: Any) -> None:
        super().configure_gradient_clipping(*arguments, **options)
        largest = max(float(one.grad.abs().max()) for one in self.parameters() if one.grad is not None)
        self.seen["largest_gradient"] = max(self.seen["largest_gradient"], largest)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.seen["batches"]["sanity" if self.trainer.sanity_checking else "val"] += 1
        self.seen["inference_mode"] = torch.is_inference_mode_enabled()
        self.log("val_loss", nn.functional.mse_loss(self.net(batch[0]), batch[1]))

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.seen["batches"]["test"] += 1
        self.log("test_loss", nn.functional.mse_loss(self.net(batch[0]), batch[1]))

    def predict_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        self.seen["batches"]["predict"] += 1
        return self.net(batch[0])

    def train_dataloader(self) -> DataLoader[Any]:
        self.seen["loaders_asked_for"] += 1
        return _noise(shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return _noise()

    def test_dataloader(self) -> DataLoader[Any]:
        return _noise()

    def predict_dataloader(self) -> DataLoader[Any]:
        return _noise()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr)

    def teardown(self, stage: str) -> None:
        trainer: Any = self.trainer
        if not trainer.is_global_zero:
            return
        self.seen |= {
            "steps": trainer.global_step,
            "epochs": trainer.current_epoch,
            "devices": trainer.num_devices,
            "nodes": trainer.num_nodes,
            "accelerator": type(trainer.accelerator).__name__,
            "strategy": type(trainer.strategy).__name__,
            "precision": trainer.precision,
            "callbacks": sorted(type(one).__name__ for one in trainer.callbacks),
            "sampler": type(trainer.train_dataloader.sampler).__name__ if trainer.train_dataloader else None,
        }
        print("saw", json.dumps(self.seen))


def _noise(*, shuffle: bool = False) -> DataLoader[Any]:
    x = torch.randn(BATCHES * BATCH_SIZE, 4, generator=torch.Generator().manual_seed(1))
    return DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=BATCH_SIZE, shuffle=shuffle)
