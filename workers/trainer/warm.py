"""What the fork server imports before the first job. Import only: no tensor operation, no CUDA call, no thread.

One tensor operation here would start an OpenMP pool that no fork has, and every trainer would hang in its first
matrix product. A catalogue module that cannot be imported is left to `describe`, which reports it.
"""

import contextlib
import gc
import importlib

from setproctitle import setproctitle

setproctitle("lightyard-forkserver")

import jsonargparse  # noqa: E402, F401
import pytorch_lightning.cli  # noqa: E402, F401

from core.settings import settings  # noqa: E402

for module in settings().catalog_modules:
    with contextlib.suppress(Exception):
        importlib.import_module(module)

# What is loaded by now lives as long as the process: out of the collector's sight, its pages stay shared by forks.
gc.collect()
gc.freeze()
