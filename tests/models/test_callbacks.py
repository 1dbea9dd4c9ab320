"""The norm of the gradients, in a Trainer by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from models.callbacks import GradientNorm


class Sloping(LightningModule):
    """Remembers the gradients of each step, before they are clipped and as the step is made with them."""

    def __init__(self, *, sparse: bool = False) -> None:
        super().__init__()
        self.table = nn.Embedding(8, 3, sparse=sparse)
        self.layer = nn.Linear(3, 1)
        self.before: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss: Tensor = self.layer(self.table(batch[0])).square().sum()
        return loss

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.before.append(self.norm(self))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)

    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(torch.arange(8) // 2), batch_size=2)

    def norm(self, module: nn.Module) -> float:
        gradients = [p.grad.to_dense().flatten() for p in module.parameters() if p.grad is not None]
        return float(torch.cat(gradients).norm()) if gradients else 0.0


class ByHand(Sloping):
    """An optimizer for each part, and clipping by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.steps: list[list[float]] = [[], []]

    def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        optimizers: Any = self.optimizers()
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        for steps, part, optimizer in zip(self.steps, (self.table, self.layer), optimizers, strict=True):
            self.clip_gradients(optimizer, gradient_clip_val=0.05, gradient_clip_algorithm="norm")
            steps.append(self.norm(part))
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(part.parameters(), lr=0.01) for part in (self.table, self.layer)]


def logged(folder: Path, module: LightningModule, name: str, **flags: Any) -> list[float]:
    logger = CSVLogger(folder)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=2,
        callbacks=GradientNorm(),
        logger=logger,
        log_every_n_steps=1,
        **quiet,
        **flags,
    )
    trainer.fit(module)
    return [row[name] for row in logger.experiment.metrics if name in row] or read(Path(logger.log_dir), name)


def read(folder: Path, name: str) -> list[float]:
    header, *rows = (folder / "metrics.csv").read_text().splitlines()
    column = header.split(",").index(name)
    return [float(row.split(",")[column]) for row in rows if row.split(",")[column]]


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"gradient_clip_val": 0.01},
        {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
        {"accumulate_grad_batches": 2},
    ],
)
def test_it_is_that_of_all_gradients_before_they_are_clipped(tmp_path: Path, flags: dict[str, Any]) -> None:
    module = Sloping()
    assert logged(tmp_path, module, "grad_norm", **flags) == pytest.approx(module.before)
    assert min(module.before) > 0.01


def test_sparse_gradients_count_with_the_values_that_they_have(tmp_path: Path) -> None:
    module = Sloping(sparse=True)
    assert logged(tmp_path, module, "grad_norm") == pytest.approx(module.before)


def test_each_of_several_optimizers_has_its_own_as_its_step_is_made_with(tmp_path: Path) -> None:
    module = ByHand()
    for index in range(2):
        assert logged(tmp_path / str(index), module, f"grad_norm_{index}")[-8:] == pytest.approx(
            module.steps[index][-8:]
        )


def test_it_changes_nothing_of_what_is_trained(tmp_path: Path) -> None:
    weights = []
    for callbacks in ([], [GradientNorm()]):
        torch.manual_seed(3)
        module = Sloping()
        Trainer(max_epochs=2, barebones=True, accelerator="cpu", callbacks=callbacks).fit(module)
        weights.append(module.layer.weight.clone())
    assert torch.equal(*weights)
