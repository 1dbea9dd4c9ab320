"""Where a run starts: a checkpoint of another job to go on from, or one whose weights alone it is to have."""

import io
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.trainer.call import _call_lightning_module_hook

from workers.rundir import EXACT, Order, RunDir
from workers.trainer.bystander import Bystander
from workers.trainer.spool import Spool

PLACE = "Recovery"
"""Under this name a checkpoint has the place from which a run goes on exactly: `recovery.Recovery` keeps it."""
NO_PLACE = "the checkpoint has no random numbers and no place within an epoch"
OTHER_RUN = "the config is not that of the run which saved the checkpoint"
OTHER_RANKS = "the checkpoint is of a run with another number of ranks"
NAMED_MAX = 10
"""Most names of tensors that a message lists, of each kind."""


class UnusableCheckpoint(Exception):
    """The checkpoint that a job names cannot be what it is to start from. The message says why, and what to do."""


class Origin(Bystander):
    """Reads what a run starts from, and says how it goes on."""

    def __init__(self, run: RunDir, order: Order, spool: Spool) -> None:
        self._run = run
        self._order = order
        self._spool = spool
        self._why_plain: str | None = None
        self._logged: tuple[int, int] | None = None
        self._first_step = -1
        self._configured: list[float] = []

    @property
    def path(self) -> str | None:
        """What Lightning is to take as `ckpt_path`."""
        if self._order.resume:
            return str(self._run.resume)
        if self._order.start:
            return str(self._run.start)
        # To go on from what was there last: Lightning itself says that there is nothing, and begins.
        return "last" if self._order.config.get("ckpt_path") == "last" else None

    def taken(self, checkpoint: dict[str, Any]) -> dict[str, Any]:
        """The checkpoint of another job, loaded, as this run can use it. Raises `UnusableCheckpoint`."""
        name = self._order.config.get("ckpt_path")
        if not isinstance(checkpoint.get("state_dict"), dict):
            raise UnusableCheckpoint(f"{name} was not saved by a LightningModule: it has no state_dict")
        self._logged, self._first_step = logged_at(checkpoint), int(checkpoint.get("global_step", 0))
        if self._order.subcommand == "fit" and "optimizer_states" not in checkpoint:
            raise UnusableCheckpoint(
                f"{name} has weights only, and nothing of the training to go on with. To start with its weights, name"
                " it as `weights_from` instead of `ckpt_path`."
            )
        self._why_plain = self._plain(checkpoint.get("callbacks", {}).get(PLACE))
        if (self._why_plain is not None or self._order.dry_run) and "callbacks" in checkpoint:
            checkpoint["callbacks"].pop(PLACE, None)
        if self._order.dry_run:  # one batch with what it holds, though the run's limits may lie behind it
            checkpoint.pop("loops", None)
        return checkpoint

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the module the weights that it is to start with; its layers and optimizers are made by now."""
        self._configured = _learning_rates(trainer)
        if self._order.weights:
            checkpoint = read_safely(self._run.weights, "weights_from")
            check_weights(checkpoint.get("state_dict"), pl_module)
            _call_lightning_module_hook(trainer, "on_load_checkpoint", checkpoint)
            trainer.strategy.load_model_state_dict(checkpoint, strict=pl_module.strict_loading)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say how it goes on, where it is not by a place of its own."""
        if self._order.start and trainer.is_global_zero and (restored := _learning_rates(trainer)) != self._configured:
            # Lightning restores the optimizers' state, their learning rates with it.
            self._spool.event("learning_rate_restored", configured=self._configured, restored=restored)
        if self._why_plain is not None and trainer.is_global_zero:
            self._spool.event("resumed", resume="epoch", reason=self._why_plain, batches_skipped=0, seconds=0.0)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say it where a run was over before it began: most who go on from a checkpoint forget that limits count on."""
        if trainer.is_global_zero and trainer.global_step == self._first_step:
            limits = {"max_epochs": trainer.max_epochs, "max_steps": trainer.max_steps}
            self._spool.event("nothing_trained", global_step=trainer.global_step, **limits)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Its values stand where the run's own of then do."""
        if self._order.subcommand == "validate":
            self._log_at(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As above."""
        self._log_at(trainer)

    def _log_at(self, trainer: Trainer) -> None:
        if self._logged is not None:
            # What loggers are told, and not `global_step` and `current_epoch`: those are 0, as by hand.
            trainer.fit_loop.epoch_loop._batches_that_stepped, self._spool.epoch = self._logged

    def _plain(self, place: Mapping[str, Any] | None) -> str | None:
        """Why the run cannot go on from the very place; None: it can."""
        if self._order.subcommand != "fit" or place is None:
            return NO_PLACE
        if self._order.start != EXACT:
            return OTHER_RUN
        ranks = len(self._order.devices) * self._order.nodes
        return None if len(place.get("ranks", ())) == ranks else OTHER_RANKS


def read_safely(path: Path, name: str) -> dict[str, Any]:
    """A checkpoint's content, tensors on the CPU. Raises `UnusableCheckpoint` for one that would run code."""
    try:
        content: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
    except UnpicklingError as error:
        raise UnusableCheckpoint(unsafe(name, error)) from error
    return content


def unsafe(name: str, error: UnpicklingError) -> str:
    """What is said of a checkpoint that is not loaded."""
    return f"{name} cannot be loaded without running code, and never is: {error}"[:1000]


def check_weights(state_dict: object, module: LightningModule) -> None:
    """Raise `UnusableCheckpoint`, which names the tensors, unless the weights are those of the module.

    A module whose `strict_loading` is False may lack some and have others; of another shape none may be.
    """
    if not isinstance(state_dict, dict):
        raise UnusableCheckpoint("weights_from was not saved by a LightningModule: it has no state_dict")
    mine = module.state_dict()
    missing, unexpected = sorted(mine.keys() - state_dict.keys()), sorted(state_dict.keys() - mine.keys())
    told = []
    if module.strict_loading and missing:
        told.append(f"not in the checkpoint: {_listed(missing)}")
    if module.strict_loading and unexpected:
        told.append(f"not in the model: {_listed(unexpected)}")
    shapes = [(key, _shape(state_dict[key]), _shape(mine[key])) for key in mine if key in state_dict]
    other = [f"{key} ({theirs} in the checkpoint, {own} in the model)" for key, theirs, own in shapes if theirs != own]
    if other:
        told.append(f"of another shape: {_listed(other)}")
    if told:
        raise UnusableCheckpoint(
            f"the weights of weights_from do not fit {type(module).__name__}: {'; '.join(told)}. Give the model the"
            " arguments that it had, or have it change the weights in on_load_checkpoint; a module with"
            " strict_loading = False takes those that it knows."
        )


def logged_at(checkpoint: Mapping[str, Any]) -> tuple[int, int]:
    """Step and epoch at which a run that saves a checkpoint logs the values of that moment."""
    try:
        loop = checkpoint["loops"]["fit_loop"]
        epochs = loop["epoch_progress"]["current"]
        # At the end of an epoch the last step has been counted already; its values stand at that step all the same.
        counted = int(epochs["processed"] == epochs["ready"])
        step = int(loop["epoch_loop.state_dict"]["_batches_that_stepped"]) - counted
    except (KeyError, TypeError):  # saved by other means
        step = int(checkpoint.get("global_step", 0))
    return max(0, step), int(checkpoint.get("epoch", 0))


def hyperparameters_that_run_code(checkpoint: Mapping[str, Any]) -> list[str]:
    """The hyperparameters for which a checkpoint cannot be loaded safely."""
    found = []
    for key in ("hyper_parameters", "datamodule_hyper_parameters"):
        for name, value in dict(checkpoint.get(key) or {}).items():
            content = io.BytesIO()
            try:
                torch.save(value, content)
                content.seek(0)
                torch.load(content, weights_only=True)
            except Exception:  # whatever its own pickling raises: it is what was asked
                found.append(str(name))
    return found


def _learning_rates(trainer: Trainer) -> list[float]:
    """Those with which the optimizers' groups began: schedulers change what they are now."""
    groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
    rates = (group.get("initial_lr", group.get("lr")) for group in groups[:NAMED_MAX])
    return [float(rate) for rate in rates if rate is not None]


def _shape(value: Any) -> tuple[int, ...] | str:
    return tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else ""
    return ", ".join(names[:NAMED_MAX]) + more
