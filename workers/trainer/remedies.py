"""What older tutorials write and Lightning 2.6 does not know any more: what changed, and what to write instead.

Each remedy belongs to an error that Lightning (or Python, or torch) really raises; its tests raise them.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pytorch_lightning import Trainer

_TRAINER_ATTRIBUTES = {
    "call_hook": "nothing: hooks are called by the Trainer alone",
    "data_parallel_device_ids": "`trainer.device_ids`",
    "disable_validation": "`not trainer.enable_validation`",
    "gpus": "`trainer.num_devices`",
    "lr_schedulers": "`trainer.lr_scheduler_configs`, or `self.lr_schedulers()` of the module",
    "num_gpus": "`trainer.num_devices`",
    "num_processes": "`trainer.num_devices`",
    "progress_bar_dict": "`trainer.progress_bar_metrics`",
    "resume_from_checkpoint": "`trainer.ckpt_path`",
    "root_gpu": "`trainer.strategy.root_device`",
    "tpu_cores": "`trainer.num_devices`",
    "training_type_plugin": "`trainer.strategy`",
    "use_amp": "`trainer.precision`",
    "weights_save_path": "`trainer.default_root_dir`",
}
_MODULE_ATTRIBUTES = {
    "datamodule": "`self.trainer.datamodule`",
    "log_grad_norm": "the callback `models.callbacks.GradientNorm`",
    "model_size": "`sum(p.numel() for p in self.parameters())`",
    "use_amp": "`self.trainer.precision`",
}
_LOG_ARGUMENTS = {
    "sync_dist_op": "`reduce_fx`",
    "tbptt_reduce_fx": "`reduce_fx`",
    "tbptt_pad_token": "nothing: sequences are cut in the training_step",
}
_HOOK_ARGUMENTS = {
    "backward": "backward(self, loss)",
    "configure_gradient_clipping": "configure_gradient_clipping(self, optimizer, gradient_clip_val=None,"
    " gradient_clip_algorithm=None)",
    "lr_scheduler_step": "lr_scheduler_step(self, scheduler, metric)",
    "on_before_optimizer_step": "on_before_optimizer_step(…, optimizer)",
    "on_load_checkpoint": "on_load_checkpoint(self, trainer, pl_module, checkpoint)",
    "on_save_checkpoint": "on_save_checkpoint(self, trainer, pl_module, checkpoint), which changes `checkpoint` in"
    " place; what a callback is to remember, `state_dict` returns",
    "on_train_batch_end": "on_train_batch_end(…, outputs, batch, batch_idx)",
    "on_train_batch_start": "on_train_batch_start(…, batch, batch_idx)",
    "optimizer_step": "optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure)",
    "optimizer_zero_grad": "optimizer_zero_grad(self, epoch, batch_idx, optimizer)",
    "transfer_batch_to_device": "transfer_batch_to_device(self, batch, device, dataloader_idx)",
}
_IGNORED = {
    "get_progress_bar_dict": "get_metrics of a TQDMProgressBar",
    "on_batch_end": "on_train_batch_end",
    "on_batch_start": "on_train_batch_start",
    "on_epoch_end": "on_train_epoch_end",
    "on_epoch_start": "on_train_epoch_start",
    "on_hpc_load": "on_load_checkpoint",
    "on_hpc_save": "on_save_checkpoint",
    "on_init_end": "setup",
    "on_init_start": "setup",
    "on_keyboard_interrupt": "on_exception",
    "on_pretrain_routine_end": "on_fit_start",
    "on_pretrain_routine_start": "on_fit_start",
    "tbptt_split_batch": "a loop over the pieces in training_step, with manual optimization",
    "test_end": "on_test_epoch_end",
    "test_step_end": "the end of test_step",
    "training_end": "on_train_epoch_end",
    "training_step_end": "the end of training_step",
    "validation_end": "on_validation_epoch_end",
    "validation_step_end": "the end of validation_step",
}
"""Hooks of older versions that 2.6 passes over without a word, and what takes their place."""


def _instead(names: Mapping[str, str], owner: str = "") -> Callable[[re.Match[str]], str | None]:
    """The advice for the first group of a pattern, where it is one of the names that are gone."""
    return lambda found: (
        f"Lightning 2.6 has {names[found[1]]} instead of `{owner}{found[1]}`." if found[1] in names else None
    )


@dataclass(frozen=True, slots=True)
class _Remedy:
    pattern: re.Pattern[str]
    sentence: str | Callable[[re.Match[str]], str | None]


_BY_HAND = "set `self.automatic_optimization = False` in `__init__` and, in training_step, for each of"
_BY_HAND += " `self.optimizers()`: toggle_optimizer, zero_grad, self.manual_backward(loss), step, untoggle_optimizer"
_REMEDIES = (
    _Remedy(
        re.compile(r"Support for `(\w+)_epoch_end` has been removed"),
        lambda found: (
            f"Since Lightning 2.0 nobody gathers outputs: append what you need to a list of the module's in"
            f" {found[1]}_step, and use and clear it in on_{'train' if found[1] == 'training' else found[1]}_epoch_end"
            "(self)."
        ),
    ),
    _Remedy(
        re.compile(r"Training with multiple optimizers is only supported.*Remove the `optimizer_idx`", re.S),
        f"Since Lightning 2.0 training_step is called once a batch, without `optimizer_idx`: {_BY_HAND}.",
    ),
    _Remedy(
        re.compile(r"Training with multiple optimizers is only supported"),
        f"Since Lightning 2.0 several optimizers are stepped by hand: {_BY_HAND}.",
    ),
    _Remedy(
        re.compile(r"Automatic gradient clipping is not supported for manual optimization"),
        "A module that optimizes by hand clips by hand: take `trainer.gradient_clip_val` out of the config and call"
        " self.clip_gradients(optimizer, gradient_clip_val=…, gradient_clip_algorithm='norm') between manual_backward"
        " and optimizer.step().",
    ),
    _Remedy(
        re.compile(r"[Aa]utomatic gradient accumulation .*(is|are) not supported for\s+manual optimization", re.S),
        "A module that optimizes by hand accumulates by hand: take `trainer.accumulate_grad_batches` and the"
        " GradientAccumulationScheduler out of the config, divide the loss by n, and call optimizer.step() and"
        " optimizer.zero_grad() only where (batch_idx + 1) % n == 0.",
    ),
    _Remedy(
        re.compile(r"to use manual_backward, please disable automatic optimization"),
        "Set `self.automatic_optimization = False` in `__init__`, or return the loss and let Lightning do the rest.",
    ),
    _Remedy(
        re.compile(r"(\w+)_epoch_end\(\) missing 1 required positional argument: 'outputs'"),
        "Since Lightning 2.0 this hook gets no outputs: append what you need to a list of the module's in the step, and"
        " use and clear it here.",
    ),
    _Remedy(
        re.compile(r"'hiddens'"),
        "Since Lightning 2.0 there is no truncated backpropagation by flag: cut the sequence in training_step, with"
        " `self.automatic_optimization = False`, and keep the hidden state on the module.",
    ),
    _Remedy(
        re.compile(
            r"(\w+)\(\) (?:missing \d+ required positional|takes \d+ positional|takes from \d+ to \d+ positional)"
        ),
        lambda found: (
            f"Lightning 2.6 calls it as {_HOOK_ARGUMENTS[found[1]]}." if found[1] in _HOOK_ARGUMENTS else None
        ),
    ),
    _Remedy(
        re.compile(r"The closure hasn't been executed"),
        f"Lightning 2.6 calls it as {_HOOK_ARGUMENTS['optimizer_step']}: there is no `optimizer_idx` between, and"
        " optimizer.step(closure=optimizer_closure) must be called.",
    ),
    _Remedy(
        re.compile(r"toggle_optimizer\(\) takes 2 positional arguments but 3 were given"),
        "Since Lightning 2.0 it takes the optimizer alone: self.toggle_optimizer(optimizer), and"
        " self.untoggle_optimizer(optimizer) when it is done.",
    ),
    _Remedy(
        re.compile(r"'Lightning\w+' object is not iterable"),
        "manual_backward takes the loss alone: self.manual_backward(loss); what follows it is handed to loss.backward.",
    ),
    _Remedy(
        re.compile(r"log(?:_dict)?\(\) got an unexpected keyword argument '(\w+)'"),
        _instead(_LOG_ARGUMENTS),
    ),
    _Remedy(
        re.compile(r"'Trainer' object has no attribute '(\w+)'"),
        _instead(_TRAINER_ATTRIBUTES, "trainer."),
    ),
    _Remedy(
        re.compile(r"object has no attribute '(\w+)'"),
        _instead(_MODULE_ATTRIBUTES, "self."),
    ),
    _Remedy(
        re.compile(r"property 'hparams' of .* has no setter"),
        "Call self.save_hyperparameters() in `__init__` instead, and read self.hparams.",
    ),
    _Remedy(
        re.compile(r"module 'pytorch_lightning' has no attribute '(TrainResult|EvalResult)'"),
        "Since Lightning 1.0 a step returns the loss alone, and logs with self.log(name, value).",
    ),
    _Remedy(
        re.compile(r"`training_step` must return a Tensor, a dict, or None"),
        "Return the loss as the tensor that it is, not as a number (no .item()) and not in a tuple.",
    ),
    _Remedy(
        re.compile(r"the 'loss' key needs to be present"),
        "Return the loss alone, or a dict with it under 'loss'.",
    ),
    _Remedy(
        re.compile(r"element 0 of tensors does not require grad"),
        "The loss does not depend on any parameter that is trained: it was detached (.detach(), .item(), torch.no_grad,"
        " argmax), or every parameter is frozen.",
    ),
    _Remedy(
        re.compile(r"No `configure_optimizers\(\)` method defined"),
        "Write it, or give `optimizer` in the config: LightningCLI makes it from that.",
    ),
)


def remedy(error: BaseException) -> str | None:
    """What changed and what to write instead, in a sentence; None: nothing is known of this error."""
    text = str(error)
    for one in _REMEDIES:
        found = one.pattern.search(text)
        told = None if found is None else one.sentence if isinstance(one.sentence, str) else one.sentence(found)
        if told is not None:
            return told
    return None


def ignored_hooks(trainer: Trainer) -> list[dict[str, str]]:
    """The hooks of older versions that the module, its data or its callbacks have: nobody will call them."""
    owners: list[Any] = [trainer.lightning_module, trainer.datamodule, *trainer.callbacks]  # type: ignore[attr-defined]
    return [
        {"class": type(owner).__name__, "hook": name, "instead": instead}
        for owner in owners
        for name, instead in _ignored(owner).items()
    ]


def _ignored(owner: object) -> Mapping[str, str]:
    kinds = [kind for kind in type(owner).__mro__ if not kind.__module__.startswith(("pytorch_lightning", "torch."))]
    has = {name for kind in kinds for name in vars(kind) if name in _IGNORED}
    return {name: instead for name, instead in _IGNORED.items() if name in has}
