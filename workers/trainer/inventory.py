"""What this machine and its Python have to offer: devices, versions and the catalogue, seen from inside a fork."""

import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch
from pytorch_lightning.accelerators import XLAAccelerator

from workers.rundir import write_whole
from workers.trainer.describe import describe

OPTIONAL_PACKAGES = ("torch_xla", "transformer_engine")
"""What some accelerators and precisions need; their versions are announced where they are installed."""


def take_inventory(path: str, modules: Sequence[str]) -> None:
    """Write the inventory as JSON, then end this process, which may have touched CUDA to find out."""
    catalog = describe(modules)
    write_whole(
        Path(path),
        {
            "catalog": catalog.to_json(),
            "gpus": gpus(),
            "tpus": tpus(),
            "cpu": {"name": platform.processor() or platform.machine(), "memory_bytes": psutil.virtual_memory().total},
            "versions": versions(),
        },
    )
    os._exit(0)


def gpus() -> list[dict[str, Any]]:
    """The GPUs that CUDA sees, with what decides on precisions."""
    found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return [
        {
            "id": f"gpu:{index}",
            "name": gpu.name,
            "memory_bytes": gpu.total_memory,
            "compute_capability": f"{gpu.major}.{gpu.minor}",
        }
        for index, gpu in enumerate(found)
    ]


def tpus() -> list[dict[str, Any]]:
    """The TPU cores that torch_xla sees, if it is installed; a broken one is said, and is no reason to be no worker."""
    try:
        count = XLAAccelerator.auto_device_count() if XLAAccelerator.is_available() else 0
    except Exception as error:  # an import of torch_xla that fails may raise anything
        sys.stderr.write(f"torch_xla is installed and cannot be used: {error!r}\n")
        return []
    return [{"id": f"tpu:{index}", "name": "TPU"} for index in range(count)]


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that jobs are run with."""
    told = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "pytorch_lightning": version("pytorch-lightning"),
    }
    if torch.version.cuda:
        told["cuda"] = torch.version.cuda
    for name in OPTIONAL_PACKAGES:
        try:
            told[name] = version(name)
        except PackageNotFoundError:
            continue
    return told
