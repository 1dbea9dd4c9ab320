"""What Lightning's own callbacks change in a run beyond their saved state, for a resumed run to be changed alike.

They act when a fit or an epoch begins, which does not happen again where a run goes on within an epoch; and some save a
state from which they cannot go on at all.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import (
    BatchSizeFinder,
    LearningRateFinder,
    ModelCheckpoint,
    ModelPruning,
    SpikeDetection,
    StochasticWeightAveraging,
)
from pytorch_lightning.tuner.lr_finder import _determine_lr_attr_name
from pytorch_lightning.utilities.parsing import lightning_getattr, lightning_setattr
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import prune
from torchmetrics import Metric

from workers.trainer.bystander import Bystander
from workers.trainer.control import Stopped

State = dict[str, Any]


class Quiet(Bystander):
    """Stands first, so that a run that is told to stop is no exception to those that save on one."""

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """ModelCheckpoint's `save_on_exception` is for errors; what a stopped run leaves, the service has saved."""
        if isinstance(exception, Stopped):
            for callback in _callbacks(trainer, ModelCheckpoint):
                callback.save_on_exception = False


def pruned(module: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Each parameter that has a mask: its path, its module and its name there, in the order of the masks."""
    for path, part in module.named_modules():
        for hook in part._forward_pre_hooks.values():
            if isinstance(hook, prune.BasePruningMethod):
                name = hook._tensor_name
                yield f"{path}.{name}" if path else name, part, name


def gather(trainer: Trainer, masked_before: set[str]) -> State:
    """What callbacks have changed by now. `masked_before`: the parameters that had masks before training began."""
    module = trainer.lightning_module
    masks = ((path, getattr(part, f"{name}_mask")) for path, part, name in pruned(module))
    return {
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
        "masks": {path: mask.to(torch.bool) for path, mask in masks if path not in masked_before},
        "tickets_used": [first.data_ptr() == now.data_ptr() for first, now in _tickets(trainer)],
        "tracking": {path: part.track_running_stats for path, part in _normalizations(module)},
        "averaging": [one._initialized for one in _callbacks(trainer, StochasticWeightAveraging)],
        "spikes": [_running(one) for one in _callbacks(trainer, SpikeDetection)],
        "found": [[name, lightning_getattr(module, name)] for _, name in _finders(trainer)],
    }


def find_again(trainer: Trainer, state: State, artifacts: Path) -> None:
    """Before anything is made from the config: what finders found stands, and is not looked for again."""
    for (finder, _), (name, value) in zip(_finders(trainer), state["found"], strict=True):
        lightning_setattr(trainer.lightning_module, name, value)
        finder.on_fit_start = _nothing
    for one in _callbacks(trainer, SpikeDetection):
        one.exclude_batches_path = str(artifacts / Path(one.exclude_batches_path or "").name)  # not the last attempt's


def change_again(trainer: Trainer, state: State) -> None:
    """At the place where the run goes on: what the beginnings of its epochs did is done."""
    module = trainer.lightning_module
    for path, mask in state["masks"].items():
        owner, _, name = path.rpartition(".")
        part = module.get_submodule(owner)
        prune.custom_from_mask(part, name, mask.to(getattr(part, name).device))  # type: ignore[no-untyped-call]
    for (first, now), used in zip(_tickets(trainer), state["tickets_used"], strict=True):
        if used:
            first.data = now.data
    for path, part in _normalizations(module):
        part.track_running_stats = state["tracking"].get(path, part.track_running_stats)
    for one, initialized in zip(_callbacks(trainer, StochasticWeightAveraging), state["averaging"], strict=True):
        if initialized:
            _average_again(trainer, one)
    for one, running in zip(_callbacks(trainer, SpikeDetection), state["spikes"], strict=True):
        _run_on(one, running)
    if not trainer.fit_loop._skip_backward:  # else averaging has set it
        trainer.accumulate_grad_batches = state["accumulate_grad_batches"]


def without_masks(checkpoint: State, module: LightningModule, masked_before: set[str]) -> None:
    """Have a checkpoint keep the weights that masks hide, under the names that they had when the module was made."""
    weights = checkpoint["state_dict"]
    for path, part, name in pruned(module):
        if path not in masked_before:
            weights.pop(f"{path}_mask", None)
            weights.pop(f"{path}_orig", None)
            weights[path] = getattr(part, f"{name}_orig").detach()


def _average_again(trainer: Trainer, callback: StochasticWeightAveraging) -> None:
    """What `on_train_epoch_start` did when averaging began, and when the last epoch of batch statistics did."""
    module, optimizer = trainer.lightning_module, trainer.optimizers[0]
    learning = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    last, updated = callback._max_epochs, callback._latest_update_epoch
    # It must find itself within its epochs, and up to date, to make its scheduler and nothing else.
    callback._max_epochs, callback._latest_update_epoch = trainer.current_epoch + 1, trainer.current_epoch
    callback.on_train_epoch_start(trainer, module)
    callback._max_epochs, callback._latest_update_epoch = last, updated
    if last != -1 and trainer.current_epoch == callback.swa_end + 1:
        callback.on_train_epoch_start(trainer, module)
    for group, kept in zip(optimizer.param_groups, learning, strict=True):
        group.update(kept)
    for name, buffer in buffers.items():
        module.get_buffer(name).copy_(buffer)


def _callbacks(trainer: Trainer, kind: type) -> list[Any]:
    found: list[Any] = trainer.callbacks  # type: ignore[attr-defined]  # Lightning sets it in a connector
    return [one for one in found if isinstance(one, kind)]


def _finders(trainer: Trainer) -> Iterator[tuple[Any, str]]:
    """Those that look for a value when the fit begins, each with the name of the attribute that they set."""
    for finder in _callbacks(trainer, BatchSizeFinder):
        yield finder, finder._batch_arg_name
    for finder in _callbacks(trainer, LearningRateFinder):
        if finder._update_attr:
            yield finder, _determine_lr_attr_name(trainer.lightning_module, finder._attr_name)


def _tickets(trainer: Trainer) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The weights that lottery tickets go back to, each with those that are trained.

    Where they have gone back once, without a move to another device, Lightning has both share their memory.
    """
    for callback in _callbacks(trainer, ModelPruning):
        for layer in (callback._original_layers or {}).values():
            for index, name in layer["names"]:
                part, _ = callback._parameters_to_prune[index]
                yield (
                    getattr(layer["data"], name),
                    getattr(part, f"{name}_orig" if hasattr(part, f"{name}_orig") else name),
                )


def _nothing(*_: Any) -> None:
    """In place of a search whose result is known."""


def _normalizations(module: nn.Module) -> Iterator[tuple[str, _BatchNorm]]:
    return ((path, part) for path, part in module.named_modules() if isinstance(part, _BatchNorm))


def _running(callback: SpikeDetection) -> list[State]:
    return [
        {"updates": metric._update_count, "values": {name: getattr(metric, name) for name in metric._defaults}}
        for metric in _means(callback)
    ]


def _run_on(callback: SpikeDetection, running: list[State]) -> None:
    for metric, saved in zip(_means(callback), running, strict=True):
        metric._update_count, metric._computed = saved["updates"], None
        for name, value in saved["values"].items():
            setattr(metric, name, value)


def _means(callback: SpikeDetection) -> list[Metric]:
    return [one for one in callback.running_mean.modules() if isinstance(one, Metric)]
