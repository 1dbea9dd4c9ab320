"""Runs a loop of the user's own on Lightning Fabric: made from the config as by hand, with the service's ears in it."""

import importlib
import inspect
import math
import os
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace
from lightning_fabric import Fabric, seed_everything
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from torch import Tensor

from workers.rundir import Order, Outcome, RunDir
from workers.trainer.classes import is_loop
from workers.trainer.divergence import Diverged
from workers.trainer.fabric.files import LoopCheckpointIO
from workers.trainer.fabric.logger import LoopLogger
from workers.trainer.fabric.recovery import LoopRecovery
from workers.trainer.fabric.report import LoopReporter
from workers.trainer.fabric.state import LoopState
from workers.trainer.spool import ProgressFile, Spool
from workers.trainer.whereabouts import Whereabouts

OF_THE_SERVICE = ("accelerator", "devices", "num_nodes", "callbacks")
"""Flags that are not given to Fabric as they stand."""
ONE_BATCH = "a loop is tried until it says that its first batch has ended, and no further"


class Tried(BaseException):
    """A dry run has had its batch."""


class ServedFabric(Fabric):
    """Fabric as the loop knows it; whatever hook the loop calls, the service hears after all callbacks."""

    def __init__(
        self, order: Order, state: LoopState, reporter: LoopReporter, recovery: LoopRecovery, **flags: Any
    ) -> None:
        super().__init__(**flags)
        self._order = order
        self._state = state
        self._reporter = reporter
        self._recovery = recovery
        reporter.fabric = recovery.fabric = self

    def call(self, hook_name: str, *args: Any, **kwargs: Any) -> None:
        """Call the callbacks' methods of this name, then look at what the service wants."""
        super().call(hook_name, *args, **kwargs)
        self._reporter.heard(hook_name)
        self._recovery.heard(hook_name)
        if self._order.dry_run and hook_name == "on_train_batch_end":
            raise Tried

    def backward(self, tensor: Tensor, *args: Any, **kwargs: Any) -> None:
        """Propagate back; a loss that is not finite ends a run that asks for it, before its weights see it."""
        if self._order.stop_on_nan and not math.isfinite(loss := float(tensor.detach().sum())):
            state = self._state
            raise Diverged(Whereabouts("training", state.epoch, state.global_step, state.batch), loss)
        super().backward(tensor, *args, **kwargs)

    def setup_dataloaders(self, *dataloaders: Any, **options: Any) -> Any:
        """Set up loaders, and remember them."""
        made = super().setup_dataloaders(*dataloaders, **options)
        self._recovery.has_loaders(made if isinstance(made, list) else [made])
        return made


@dataclass(frozen=True, slots=True)
class Steps:
    """A callback of Fabric's own, which it calls itself."""

    state: LoopState
    recovery: LoopRecovery

    def on_after_optimizer_step(self, strategy: Any, optimizer: Any) -> None:
        """Count."""
        self.state.optimizer_steps += 1
        self.recovery.overheard()


def loop_class(order: Order) -> type | None:
    """The class of the loop that an order names; None: its model is no loop."""
    model = order.config.get("model")
    path = model.get("class_path") if isinstance(model, dict) else model
    module, _, name = str(path).rpartition(".")
    if not any(module == root or module.startswith(f"{root}.") for root in order.catalog_modules):
        return None
    found = getattr(importlib.import_module(module), name, None)
    return found if inspect.isclass(found) and is_loop(found) else None


def run_loop(loop_of: type, order: Order, run: RunDir, spool: Spool) -> Outcome:
    """Make the loop and run it to its end. Raises what it raises, and `Stopped`."""
    # What it saves under a relative path is a checkpoint of the job, and is there again for a further attempt.
    os.chdir(run.checkpoints)
    parser, config = _parse(loop_of, order)
    if config.seed_everything is not False:
        seed_everything(None if config.seed_everything is True else config.seed_everything, workers=True)
    made = parser.instantiate(config)
    loop, flags = made.model, vars(config.trainer)
    callbacks = [made[f"callbacks.{index}"] for index in range(len(_callbacks(order)))]

    state = LoopState(loop)
    logger = LoopLogger(spool, run, order, state)
    files = LoopCheckpointIO(run, spool, order, state, logger)
    recovery = LoopRecovery(run, spool, files, order, state)
    logger.on_log = lambda: None if state.optimizer_steps else recovery.overheard()
    fabric = ServedFabric(
        order,
        state,
        LoopReporter(order, spool, ProgressFile(run.progress), state),
        recovery,
        **{name: flag for name, flag in flags.items() if name not in OF_THE_SERVICE and flag is not None},
        accelerator=order.devices[0].partition(":")[0],
        devices=len(order.devices),
        num_nodes=order.nodes,
        callbacks=[*callbacks, Steps(state, recovery)],
        loggers=[logger],
        plugins=[files, LightningEnvironment()],
    )
    began = time.monotonic()
    try:
        with suppress(Tried):
            fabric.launch(partial(_run, loop=loop, order=order, run=run, files=files, recovery=recovery))
    finally:
        if fabric.is_global_zero:
            _leave_config(parser, config, run)
    if order.dry_run and fabric.is_global_zero:
        phase = {"phase": "training", "batches": state.batches, "seconds": round(time.monotonic() - began, 3)}
        spool.event("tried", phases=[phase | {"metrics": dict(logger.latest)}], warnings=[ONE_BATCH])
    if fabric.is_global_zero:
        files.tell_removed()
    return Outcome("succeeded")


def _run(fabric: Fabric, loop: Any, order: Order, run: RunDir, files: LoopCheckpointIO, recovery: LoopRecovery) -> None:
    takes = inspect.signature(loop.run).parameters
    if "ckpt_path" not in takes and not any(one.kind is one.VAR_KEYWORD for one in takes.values()):
        recovery.no_path()
        loop.run(fabric)
        return
    files.start_file = run.resume if order.resume else run.start if order.start else None
    loop.run(fabric, ckpt_path=None if files.start_file is None else str(files.start_file))


def _parse(loop_of: type, order: Order) -> tuple[ArgumentParser, Namespace]:
    """The config as jsonargparse reads it, under the rules of `allow_only`. Raises what it raises."""
    config = order.config
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--seed_everything", type=bool | int, default=True)
    parser.add_subclass_arguments(loop_of, "model", required=True)
    parser.add_class_arguments(Fabric, "trainer", skip={"plugins", "loggers", "callbacks"}, instantiate=False)
    callbacks = {str(index): given for index, given in enumerate(_callbacks(order))}
    for index, given in callbacks.items():
        path = given if isinstance(given, str) else given["class_path"]
        module, _, name = path.rpartition(".")
        parser.add_subclass_arguments(getattr(importlib.import_module(module), name), f"callbacks.{index}")
    flags = config.get("trainer") or {}
    read = {
        "seed_everything": config.get("seed_everything", True),
        "model": config["model"],
        "trainer": {name: flag for name, flag in flags.items() if name != "callbacks" and flag is not None},
    }
    return parser, parser.parse_object(read | ({"callbacks": callbacks} if callbacks else {}))


def _callbacks(order: Order) -> list[Any]:
    given = (order.config.get("trainer") or {}).get("callbacks")
    return [] if given is None else given if isinstance(given, list) else [given]


def _leave_config(parser: ArgumentParser, config: Namespace, run: RunDir) -> None:
    """The config with every default filled in, from which `examples/fabric.py` and a job make the same run again."""
    try:
        told = yaml.safe_load(parser.dump(config, skip_unset=False, skip_check=True))
        callbacks = list((told.pop("callbacks", None) or {}).values())
        if callbacks:
            told["trainer"]["callbacks"] = callbacks
        (run.artifacts / "config.yaml").write_text(yaml.safe_dump(told, sort_keys=False))
    except Exception as error:  # a value that cannot be dumped is no reason to fail a run that is done
        sys.stderr.write(f"the resolved config cannot be written: {error!r}\n")
