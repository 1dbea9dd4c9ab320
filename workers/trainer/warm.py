"""What the fork server imports before the first job. Import only: no tensor operation, no CUDA call, no thread.

One tensor operation here would start an OpenMP pool that no fork has, and every trainer would hang in its first
matrix product. A catalogue module that cannot be imported is left to `describe`, which reports it.
"""

import contextlib
import gc
import importlib
import linecache

from setproctitle import setproctitle

from core.settings import settings

TRAINER_MODULES = (
    "workers.trainer.accelerators",
    "workers.trainer.build",
    "workers.trainer.describe",
    "workers.trainer.fabric.loop",
    "workers.trainer.inventory",
    "workers.trainer.main",
    "workers.trainer.outcome",
    "workers.trainer.rendezvous",
    "workers.trainer.standby",
    "workers.trainer.subcommands",
)
IN_A_RUN = ("attrs", "fsspec.implementations.chained", "rich._emoji_codes", "torch.utils.serialization.config")
"""What torch, Lightning and rich import only while a run goes on, where they are installed."""

setproctitle("lightyard-forkserver")

for module in TRAINER_MODULES:
    importlib.import_module(module)

for module in IN_A_RUN:
    with contextlib.suppress(ImportError):
        importlib.import_module(module)

for module in settings().catalog_modules:
    with contextlib.suppress(Exception):
        importlib.import_module(module)

# Which classes a config may name is the same for every trainer: looked up once, kept by every fork.
importlib.import_module("workers.trainer.allow").allow_only(settings().catalog_modules)
# So are the parser of configs, and what it knows of the classes that they name.
importlib.import_module("workers.trainer.parsers").prepare(settings().catalog_modules)
linecache.clearcache()  # the sources that were read for it
importlib.import_module("workers.trainer.lookups").look_up()

# What is loaded by now lives as long as the process: out of the collector's sight, its pages stay shared by forks.
gc.collect()
gc.freeze()
