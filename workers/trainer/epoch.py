"""What a run has gathered that Lightning's checkpoint lacks, apart from its random numbers and its place in the data.

The values logged in the epoch so far, metrics under way, gradients that are still to be used, which modules are in
evaluation mode or frozen, and what Lightning and its callbacks remember between hooks.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.trainer.connectors.logger_connector.result import _Metadata, _ResultMetric, _Sync
from torchmetrics import Metric

from workers.trainer.files import moved_here

State = dict[str, Any]

_REDUCTIONS: dict[str, Any] = {
    "torch.mean": torch.mean,
    "torch.sum": torch.sum,
    "torch.max": torch.max,
    "torch.min": torch.min,
    "sum": sum,
    "max": max,
    "min": min,
}
_META: tuple[str, ...] = ("fx", "name", "prog_bar", "logger", "on_step", "on_epoch", "enable_graph")
_META += ("add_dataloader_idx", "dataloader_idx", "metric_attribute")
_CHECKPOINT_MEMORY: tuple[str, ...] = ("current_score", "_last_global_step_saved", "_last_checkpoint_saved")
_CHECKPOINT_MEMORY += ("_defer_save_until_validation",)


class CannotGather(Exception):
    """Something is under way that cannot be saved; at the beginning of the next epoch it is over."""


def gather(trainer: Trainer, *, gradients: bool) -> State:
    """What is under way now. Tensors that nobody changes in place are not copied. Raises `CannotGather`."""
    module, connector, fit_loop = trainer.lightning_module, trainer._logger_connector, trainer.fit_loop
    val_loop = fit_loop.epoch_loop.val_loop
    now = time.monotonic()
    return {
        "results": _results(trainer),
        "metrics": {name: _gathered(metric) for name, metric in _metrics(module)},
        "callback_metrics": dict(connector._callback_metrics),
        "logged_metrics": dict(connector._logged_metrics),
        "progress_bar_metrics": dict(connector._progress_bar_metrics),
        "first_loop_iter": connector._first_loop_iter,
        "current_fx": connector._current_fx,
        "should_stop": trainer.should_stop,
        "validated": val_loop._has_run,
        "since_validation": now - getattr(trainer, "_last_val_time", now),
        "reloaded": [fit_loop._last_train_dl_reload_epoch, val_loop._last_val_dl_reload_epoch],
        "evaluating": [name for name, part in module.named_modules() if not part.training],
        "frozen": [name for name, parameter in module.named_parameters() if not parameter.requires_grad],
        "gradients": _gradients(module) if gradients else {},
        "checkpoints": [
            {name: getattr(callback, name) for name in _CHECKPOINT_MEMORY} for callback in _model_checkpoints(trainer)
        ],
    }


def restore(trainer: Trainer, state: State, checkpoints: Path) -> None:
    """Put back what was under way. `checkpoints` is the folder where ModelCheckpoint's files lie in this attempt."""
    module, connector, fit_loop = trainer.lightning_module, trainer._logger_connector, trainer.fit_loop
    device = trainer.strategy.root_device
    fit_loop.epoch_loop._results.clear()
    for saved in state["results"]:
        fit_loop.epoch_loop._results[saved["key"]] = _result(saved, trainer)
    for name, metric in _metrics(module):
        _restore_metric(metric, state["metrics"][name])
    connector._callback_metrics = _moved(state["callback_metrics"], device)
    connector._logged_metrics = _moved(state["logged_metrics"], device)
    connector._progress_bar_metrics = state["progress_bar_metrics"]
    connector._first_loop_iter = state["first_loop_iter"]
    connector._current_fx = state["current_fx"]
    trainer.should_stop = state["should_stop"]
    val_loop = fit_loop.epoch_loop.val_loop
    val_loop._has_run = state["validated"]
    # Lightning, too, sets it from outside.
    trainer._last_val_time = time.monotonic() - state["since_validation"]  # type: ignore[attr-defined]
    fit_loop._last_train_dl_reload_epoch, val_loop._last_val_dl_reload_epoch = state["reloaded"]
    evaluating, frozen = set(state["evaluating"]), set(state["frozen"])
    for name, part in module.named_modules():
        part.training = name not in evaluating
    for name, parameter in module.named_parameters():
        if parameter.requires_grad is (name in frozen):
            parameter.requires_grad_(name not in frozen)
        gradient = state["gradients"].get(name)
        if gradient is not None:
            parameter.grad = gradient.to(parameter.device)
    for callback, memory in zip(_model_checkpoints(trainer), state["checkpoints"], strict=True):
        for name, value in moved_here(memory, str(checkpoints)).items():
            setattr(callback, name, value)


def _results(trainer: Trainer) -> list[State]:
    """What was logged in this epoch, as Lightning adds it up."""
    names = {id(metric): name for name, metric in _metrics(trainer.lightning_module)}
    return [
        _told(key, result, names)
        for key, result in trainer.fit_loop.epoch_loop._results.items()
        if not result.has_reset
    ]


def _told(key: str, result: _ResultMetric, names: dict[int, str]) -> State:
    meta, sync = result.meta, result.meta.sync
    reduction = next((name for name, function in _REDUCTIONS.items() if function is meta.reduce_fx), None)
    metric = None if result.is_tensor else names.get(id(result.value))
    if sync.group is not None or reduction is None or not (result.is_tensor or metric):
        raise CannotGather(f"the logged value {meta.name!r} cannot be saved while its epoch is under way")
    samples = result.cumulated_batch_size if result.is_tensor and meta.is_mean_reduction else None
    return {
        "key": key,
        "meta": {name: getattr(meta, name) for name in _META},
        "reduction": reduction,
        "sync": [sync.should, sync.rank_zero_only],
        "updates": result._update_count,
        "metric": metric,
        "value": result.value if result.is_tensor else None,
        "samples": samples,
        "last": _detached(result._forward_cache),
    }


def _result(saved: State, trainer: Trainer) -> _ResultMetric:
    meta = _Metadata(**saved["meta"], reduce_fx=_REDUCTIONS[saved["reduction"]])
    should, rank_zero_only = saved["sync"]
    meta.sync = _Sync(fn=trainer.strategy.reduce, _should=should, rank_zero_only=rank_zero_only)
    result = _ResultMetric(meta, is_tensor=saved["metric"] is None)
    result._update_count = saved["updates"]
    result._forward_cache = saved["last"]
    if saved["metric"] is None:
        result.value = saved["value"]
        if saved["samples"] is not None:
            result.cumulated_batch_size = saved["samples"]
    else:
        result.value = trainer.lightning_module.get_submodule(saved["metric"])
    return result.to(trainer.strategy.root_device)


def _metrics(module: LightningModule) -> Iterator[tuple[str, Metric]]:
    return ((name, metric) for name, metric in module.named_modules() if isinstance(metric, Metric))


def _gathered(metric: Metric) -> State:
    states = {name: getattr(metric, name) for name in metric._defaults}
    return {
        "updates": metric._update_count,
        "last": _detached(metric._forward_cache),
        "states": {name: list(state) if isinstance(state, list) else state.clone() for name, state in states.items()},
    }


def _restore_metric(metric: Metric, gathered: State) -> None:
    metric._update_count = gathered["updates"]
    metric._forward_cache = _moved(gathered["last"], metric.device)
    metric._computed = None
    for name, state in gathered["states"].items():
        setattr(metric, name, _moved(state, metric.device))


def _gradients(module: LightningModule) -> State:
    return {name: one.grad for name, one in module.named_parameters() if one.grad is not None}


def _model_checkpoints(trainer: Trainer) -> list[ModelCheckpoint]:
    return [one for one in trainer.checkpoint_callbacks if isinstance(one, ModelCheckpoint)]


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, torch.Tensor) else None


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, list):
        return [_moved(item, device) for item in value]
    if isinstance(value, dict):
        return {name: _moved(item, device) for name, item in value.items()}
    return value
