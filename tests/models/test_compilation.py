from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric

from models.compilation import Compile


class Small(LightningModule):
    """Calls a network in a list by itself, logs, and keeps a metric."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 1)])
        self.mean = MeanMetric()

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss: Tensor = self.layers[1](self.layers[0](batch)).square().mean()
        self.mean(loss)
        self.log("loss", self.mean)
        return loss

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(torch.ones(8, 4), batch_size=4)  # type: ignore[arg-type]  # a tensor is a data set

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trained(*callbacks: Compile) -> Small:
    torch.manual_seed(1)
    module = Small()
    flags: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_epochs=1, accelerator="cpu", enable_model_summary=False, callbacks=[*callbacks], **flags)
    trainer.fit(module)
    return module


def test_networks_are_compiled_and_train_as_they_do_otherwise() -> None:
    plain = trained()
    counters.clear()
    compiled = trained(Compile(backend="aot_eager", fullgraph=True))
    assert counters["stats"]["unique_graphs"] == 2, "each of the two networks is a graph"
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    for name, value in plain.state_dict().items():
        assert torch.allclose(value, compiled.state_dict()[name])


def test_a_mode_is_for_inductor_alone() -> None:
    with pytest.raises(ValueError, match="only the backend inductor takes one"):
        Compile(backend="eager", mode="max-autotune")
