"""What is kept from step to step is what Lightning would find again, and goes where Lightning would have it go."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.core import module as core_module
from pytorch_lightning.trainer.connectors.logger_connector.result import (
    _Metadata,
    _ResultCollection,
    _ResultMetric,
    _Sync,
)
from pytorch_lightning.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor
from torchmetrics.classification import BinaryAccuracy

from workers.trainer import build

CPU, ELSEWHERE = torch.device("cpu"), torch.device("meta")
REDUCTIONS: list[Callable[..., Any]] = [torch.mean, torch.sum, torch.max, torch.min]


def accumulator() -> _ResultMetric:
    meta = _Metadata("training_step", "loss", on_step=True)
    meta.sync = _Sync()
    return _ResultMetric(meta, is_tensor=True)


@pytest.mark.parametrize("reduce_fx", REDUCTIONS)
def test_values_add_up_as_they_would(reduce_fx: Callable[..., Any]) -> None:
    def logged() -> list[Any]:
        results = _ResultCollection(training=True)
        found = []
        for step in range(6):
            if step == 3:
                results.reset(metrics=False)
            value = torch.tensor([2.0, -1.0, 4.0][step % 3], dtype=torch.float64 if step > 4 else torch.float32)
            results.log("training_step", "loss", value, on_step=True, batch_size=step + 1, reduce_fx=reduce_fx)
            metric = results["training_step.loss"]
            found += [metric.value.clone(), metric.value.dtype, metric._forward_cache, metric.meta.sync.should]
        return [*found, results.metrics(on_step=False)["log"]]

    ours, moved = logged(), _ResultMetric.to
    _ResultMetric.to = _original(moved)  # type: ignore[method-assign]
    try:
        theirs = logged()
    finally:
        _ResultMetric.to = moved  # type: ignore[method-assign]
    assert ours == theirs


def _original(ours: Any) -> Any:
    """Lightning's own, from under ours."""
    return next(cell.cell_contents for cell in ours.__closure__ if callable(cell.cell_contents))


def test_one_that_lies_there_stays_and_one_that_does_not_moves_with_all_that_is_its_own() -> None:
    metric = accumulator()
    metric.update(torch.tensor(2.0), 3)
    meta = metric.meta
    assert metric.to(CPU) is metric
    assert metric.meta is meta, "nothing was copied"
    assert metric.to(ELSEWHERE) is metric
    own: list[Tensor] = [metric.value, metric.cumulated_batch_size, *metric._defaults.values()]  # type: ignore[list-item]
    assert {tensor.device for tensor in own} == {ELSEWHERE}
    metric.value = torch.tensor(1.0)  # one of them is back
    metric.to(ELSEWHERE)
    assert metric.value.device == ELSEWHERE


def test_one_of_a_metric_is_always_asked_to_move() -> None:
    metric = _ResultMetric(_Metadata("validation_step", "acc"), is_tensor=False)
    accuracy = BinaryAccuracy()
    accuracy(torch.tensor([0.9, 0.2]), torch.tensor([1, 1]))
    metric.update(accuracy, 2)
    metric.to(ELSEWHERE)
    assert accuracy.tp.device == ELSEWHERE


def test_a_signature_is_read_once_for_each_hook() -> None:
    assert build is not None, "which puts it in place"
    asked: Callable[..., bool] = vars(core_module)["is_param_in_hook_signature"]

    class First(LightningModule):
        def training_step(self, batch: Any) -> None: ...

    class Second(LightningModule):
        def training_step(self, batch: Any, batch_idx: int) -> None: ...

    for _ in range(2):
        for made, named in ((First(), False), (Second(), True)):
            assert asked(made.training_step, "batch_idx", min_args=2) is named
            assert asked(made.training_step, "batch", explicit=True)
            assert not asked(made.training_step, "dataloader_iter", explicit=True)
    unhashable = type("Hook", (), {"__call__": lambda self, batch: None, "__hash__": None})()
    assert asked(unhashable, "batch")
    assert is_param_in_hook_signature(unhashable, "batch"), "which a module that asked before has, too"
