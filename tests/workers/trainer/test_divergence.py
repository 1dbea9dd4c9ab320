"""A loss that is not finite or not there, however a module optimizes."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tests.workers.trainer.watched import Watched
from workers.trainer.divergence import Diverged, NoLoss
from workers.trainer.outcome import of_error


class Diverging(LightningModule):
    """Eight batches an epoch; the loss of batch `bad` is `value`, or None."""

    def __init__(self, bad: int = -1, value: float | None = math.nan) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)
        self.bad, self.value = bad, value
        self.seen = -1

    def loss(self, batch: Any) -> Tensor | None:
        self.seen += 1
        loss: Tensor = self.layer(batch[0]).square().mean()
        if self.seen != self.bad:
            return loss
        return None if self.value is None else loss + self.value

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss(batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)

    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(torch.ones(16, 4)), batch_size=2)


class ByHand(Diverging):
    """Two steps of two optimizers a batch."""

    def __init__(self, bad: int = -1, value: float | None = math.nan) -> None:
        super().__init__(bad, value)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for optimizer in self.optimizers():  # type: ignore[union-attr]
            loss = self.loss(batch)
            assert loss is not None
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.parameters(), lr=0.01) for _ in range(2)]


class PastLightning(ByHand):
    """Propagates without Lightning knowing of it, and returns the loss."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(batch)
        assert loss is not None
        loss.backward()  # type: ignore[no-untyped-call]
        return {"loss": loss}


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(
    ("make", "bad", "global_step", "batch"),
    [(Diverging, 3, 3, 3), (Diverging, 11, 11, 3), (ByHand, 7, 7, 3), (PastLightning, 3, 0, 3)],
)
def test_it_is_named_at_its_step(
    tmp_path: Path, make: Callable[..., Diverging], bad: int, global_step: int, batch: int, value: float
) -> None:
    module = make(bad, value)
    watched = Watched(tmp_path, stop_on_nan=True, max_epochs=3)
    with pytest.raises(Diverged) as caught:
        watched.fit(module)
    outcome = of_error(caught.value, watched.trainer)
    epoch = 1 if bad == 11 else 0
    assert (outcome.status, outcome.code) == ("failed", "diverged")
    assert outcome.data == {
        "stage": "training",
        "epoch": epoch,
        "global_step": global_step,
        "batch": batch,
        "loss": str(value),
    }
    assert all(parameter.isfinite().all() for parameter in module.parameters()), "no step was made with it"


def test_with_accumulation_it_is_named_at_its_batch(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match=r"at step 1 \(epoch 0, batch 5\)"):
        Watched(tmp_path, stop_on_nan=True, max_epochs=1, accumulate_grad_batches=4).fit(Diverging(5))


def test_nobody_asked_it_trains_on(tmp_path: Path) -> None:
    watched = Watched(tmp_path, max_epochs=1).fit(Diverging(3))
    assert watched.trainer.global_step == 8


def test_a_batch_without_a_loss_is_skipped_as_lightning_does(tmp_path: Path) -> None:
    watched = Watched(tmp_path, stop_on_nan=True, max_epochs=1).fit(Diverging(3, None))
    assert watched.trainer.state.finished


@pytest.mark.parametrize("flags", [{"max_epochs": 5}, {"max_steps": 3}])
def test_a_run_in_which_no_batch_has_a_loss_ends_after_its_first_epoch(tmp_path: Path, flags: dict[str, int]) -> None:
    class Silent(Diverging):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            self.loss(batch)

    module = Silent()
    with pytest.raises(NoLoss, match="training_step of Silent returned None for all"):
        Watched(tmp_path, **flags).fit(module)
    assert module.seen < 8


def test_a_run_that_optimizes_nothing_needs_no_loss(tmp_path: Path) -> None:
    class Counting(Diverging):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            self.loss(batch)

        def configure_optimizers(self) -> None:
            return None

    assert Watched(tmp_path, max_epochs=1).fit(Counting()).trainer.state.finished


@pytest.mark.skipif(not torch.cuda.is_available(), reason="only there the loss is computed ahead")
def test_on_a_gpu_the_right_step_is_named_although_it_is_looked_at_later(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match=r"NaN at step 5 \(epoch 0, batch 5\)"):
        Watched(tmp_path, stop_on_nan=True, max_epochs=3, accelerator="gpu").fit(Diverging(5))
