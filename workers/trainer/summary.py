"""What a run turned out to be, once it is set up: sizes, precision, optimizers, hyperparameters, how long it takes."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from itertools import islice, pairwise
from pathlib import PurePath
from typing import Any

import numpy as np
import orjson
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import GradientAccumulationScheduler
from pytorch_lightning.core.optimizer import _MockOptimizer
from pytorch_lightning.utilities import CombinedLoader
from torch.nn.parameter import is_lazy

HYPERPARAMETERS_BYTES = 16 * 1024
TEXT_CHARACTERS = 255
ITEMS_MAX = 100
DEPTH_MAX = 10
SCHEDULE_MAX = 1_000
OPTIMIZERS_MAX = 100
INTERNAL_HYPERPARAMETERS = ("_class_path", "_instantiator")
"""What LightningCLI keeps among them for itself."""

Schedule = list[tuple[int, int]]
"""From which epoch on (ascending, the first is 0) gradients of how many batches are summed."""


@dataclass(frozen=True, slots=True)
class Extent:
    """How long a run can be, in optimizer steps and in batches; -1 where that is not known or has no end."""

    steps: int
    batches: int


def extent(trainer: Trainer) -> Extent:
    """How long a run can be; the training loaders are there.

    With manual optimization a batch may have any number of steps, so that only `max_steps` counts steps.
    """
    epochs, each, most = trainer.max_epochs, trainer.num_training_batches, trainer.max_steps
    if epochs is None or epochs < 0 or each == float("inf"):
        return Extent(most, -1)
    batches = int(each) * epochs
    if not trainer.lightning_module.automatic_optimization:
        return Extent(most, batches)
    changes = [*_schedule(trainer), (epochs, 1)]
    steps = sum(
        math.ceil(each / factor) * (min(until, epochs) - min(epoch, epochs))
        for (epoch, factor), (until, _) in pairwise(changes)
    )
    return Extent(steps if most < 0 else min(steps, most), batches)


def summarize(trainer: Trainer, module: LightningModule, precision_asked: str | None) -> dict[str, Any]:
    """The summary of a run that is about to begin, as `app.schemas.jobs.SummaryOut` tells it. It costs no sync."""
    fits = trainer.training
    batch_size = _batch_size(trainer) if fits else None
    total = None if batch_size is None else batch_size * trainer.world_size
    schedule = _schedule(trainer) if fits else []
    hyperparameters, left_out = _hyperparameters(trainer, module)
    steps = extent(trainer).steps if fits else -1
    parameters = [one for one in module.parameters() if not is_lazy(one)]
    optimizers = [one for one in trainer.optimizers if not isinstance(one, _MockOptimizer)] if fits else []
    return {
        "parameters": sum(one.numel() for one in parameters),
        "trainable_parameters": sum(one.numel() for one in parameters if one.requires_grad),
        "batch_size": batch_size,
        "effective_batch_size": None if total is None else total * schedule[0][1],
        "accumulation": [
            {
                "from_epoch": epoch,
                "accumulate_grad_batches": factor,
                "effective_batch_size": None if total is None else total * factor,
            }
            for epoch, factor in schedule[:SCHEDULE_MAX]
        ],
        "precision_asked": precision_asked,
        "precision": str(trainer.precision),
        "accelerator": trainer.accelerator.name(),
        "devices": trainer.num_devices,
        "nodes": trainer.num_nodes,
        "world_size": trainer.world_size,
        "strategy": type(trainer.strategy).__name__[:TEXT_CHARACTERS],
        "automatic_optimization": module.automatic_optimization,
        "optimizers": [type(one).__name__[:TEXT_CHARACTERS] for one in optimizers[:OPTIMIZERS_MAX]],
        "lr_schedulers": [
            type(one.scheduler).__name__[:TEXT_CHARACTERS] for one in trainer.lr_scheduler_configs[:OPTIMIZERS_MAX]
        ]
        if fits
        else [],
        "hyperparameters": hyperparameters,
        "hyperparameters_left_out": left_out,
        "sanity_steps": _sanity_steps(trainer) if fits else 0,
        "estimated_steps": None if steps < 0 else steps,
    }


def _schedule(trainer: Trainer) -> Schedule:
    for callback in trainer.callbacks:  # type: ignore[attr-defined]  # Lightning sets it in a connector
        if isinstance(callback, GradientAccumulationScheduler):
            return sorted(callback.scheduling.items())
    return [(0, trainer.accumulate_grad_batches)]


def _batch_size(trainer: Trainer) -> int | None:
    """Samples in a batch of one device: of all loaders together, where a batch has one of each; None: not known."""
    loaders: Any = trainer.train_dataloader
    flattened = loaders.flattened if isinstance(loaders, CombinedLoader) else list(_leaves(loaders))
    sizes = [_size(loader) for loader in flattened]
    return sum(size for size in sizes if size) if sizes and None not in sizes else None


def _leaves(loaders: Any) -> Iterator[Any]:
    if isinstance(loaders, Mapping):
        for one in loaders.values():
            yield from _leaves(one)
    elif isinstance(loaders, (list, tuple)):
        for one in loaders:
            yield from _leaves(one)
    else:
        yield loaders


def _size(loader: Any) -> int | None:
    size = getattr(loader, "batch_size", None)
    if size is None:
        size = getattr(getattr(loader, "batch_sampler", None), "batch_size", None)
    return size if isinstance(size, int) and size >= 0 else None


def _sanity_steps(trainer: Trainer) -> int:
    loop = trainer.fit_loop.epoch_loop.val_loop
    if not trainer.enable_validation or trainer.fit_loop.is_resuming or loop._combined_loader is None:
        return 0
    return int(sum(trainer.num_sanity_val_batches))


def _hyperparameters(trainer: Trainer, module: LightningModule) -> tuple[dict[str, Any], int]:
    """What `save_hyperparameters` of the module and of its data kept to be logged, and how many had no room."""
    told: dict[str, Any] = {}
    room, left_out = HYPERPARAMETERS_BYTES, 0
    owners: dict[str, Any] = {"model": module, "data": trainer.datamodule}  # type: ignore[attr-defined]
    for owner, kept in owners.items():
        if kept is None or not kept._log_hyperparams:
            continue
        for name, value in kept.hparams_initial.items():
            if name in INTERNAL_HYPERPARAMETERS:
                continue
            plain, name = _plain(value), str(name)[:TEXT_CHARACTERS]
            size = len(orjson.dumps([name, plain]))
            if size > room:
                left_out += 1
                continue
            room -= size
            told.setdefault(owner, {})[name] = plain
    return told, left_out


def _plain(value: Any, depth: int = 0) -> Any:
    """A value as JSON has it, shortened; what JSON has no form for is told by its type."""
    if isinstance(value, (np.generic, torch.Tensor)) and value.ndim == 0 and getattr(value, "is_cpu", True):
        value = value.item()
    if isinstance(value, Enum):
        return value.name
    if value is None or isinstance(value, bool) or (isinstance(value, int) and abs(value) < 2**63):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(value)
    if isinstance(value, (str, int, PurePath, torch.dtype, torch.device)):
        return str(value)[:TEXT_CHARACTERS].encode("utf-8", "replace").decode()
    if isinstance(value, dict) and depth < DEPTH_MAX:
        items = islice(value.items(), ITEMS_MAX)
        return {str(name)[:TEXT_CHARACTERS]: _plain(item, depth + 1) for name, item in items}
    if isinstance(value, (list, tuple, set, frozenset)) and depth < DEPTH_MAX:
        return [_plain(item, depth + 1) for item in islice(value, ITEMS_MAX)]
    return f"<{type(value).__module__}.{type(value).__qualname__}>"[:TEXT_CHARACTERS]
