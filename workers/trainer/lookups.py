"""What Lightning and torch find out anew in each process, the same in all: found out once, in the fork server."""

import functools
import inspect
import linecache
import multiprocessing.forkserver
import multiprocessing.process
import multiprocessing.spawn
import sys
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

import pytorch_lightning.cli
import torch
from lightning_fabric.utilities import registry, seed
from lightning_utilities.core.imports import RequirementCache

from workers.trainer import build, main, standby

LIGHTNING = ("lightning_fabric", "pytorch_lightning", "torchmetrics")
FACTORIES = "pytorch_lightning.callbacks_factory"
"""The group of entry points by which installed packages add callbacks to every Trainer."""
IN_THE_STACK: tuple[ModuleType, ...] = (
    *(multiprocessing.forkserver, multiprocessing.spawn, multiprocessing.process),
    *(standby, main, build, pytorch_lightning.cli, seed, torch.random, torch.cuda, torch.xpu),
    *(torch.cuda.random, torch.xpu.random, torch.mtia, torch._compile, torch._dynamo.eval_frame),
)
"""Modules whose source torch reads when it is seeded: it keeps the stack of whoever did so before CUDA was used."""


def look_up() -> None:
    """Ask all of it once. Nothing is imported by it, and no device looked for."""
    # Every Trainer asks each installed package for its entry points; here, a package that is installed later is not
    # seen before the worker starts again, as with everything else that is imported.
    asked: Any = functools.cache(entry_points)
    asked(group=FACTORIES)
    vars(registry)["entry_points"] = asked
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in LIGHTNING:
            for value in list(vars(module).values()):
                if isinstance(value, RequirementCache):
                    bool(value)
    for module in IN_THE_STACK:
        if (path := inspect.getsourcefile(module)) is not None:
            linecache.getlines(path)
