"""What the fork server imports before the first job. Import only: no tensor operation, no CUDA call, no thread.

One tensor operation here would start an OpenMP pool that no fork has, and every trainer would hang in its first
matrix product. A catalogue module that cannot be imported is left to `describe`, which reports it.
"""

import contextlib
import gc
import importlib

from setproctitle import setproctitle

from core.settings import settings

TRAINER_MODULES = (
    "workers.trainer.build",
    "workers.trainer.describe",
    "workers.trainer.fabric.loop",
    "workers.trainer.inventory",
    "workers.trainer.main",
    "workers.trainer.outcome",
)

setproctitle("lightyard-forkserver")

for module in TRAINER_MODULES:
    importlib.import_module(module)

for module in settings().catalog_modules:
    with contextlib.suppress(Exception):
        importlib.import_module(module)

# Which classes a config may name is the same for every trainer: looked up once, kept by every fork.
importlib.import_module("workers.trainer.allow").allow_only(settings().catalog_modules)

# What is loaded by now lives as long as the process: out of the collector's sight, its pages stay shared by forks.
gc.collect()
gc.freeze()
