"""What this machine and its Python have to offer: devices, versions and the catalogue, seen from inside a fork."""

import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import psutil
import torch

from workers.rundir import write_whole
from workers.trainer.describe import describe


def take_inventory(path: str, modules: Sequence[str]) -> None:
    """Write the inventory as JSON, then end this process, which may have touched CUDA to find out."""
    catalog = describe(modules)
    gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    devices = [
        {"id": f"gpu:{index}", "name": gpu.name, "memory_bytes": gpu.total_memory} for index, gpu in enumerate(gpus)
    ]
    write_whole(
        Path(path),
        {
            "catalog": catalog.to_json(),
            "gpus": devices,
            "cpu": {"name": platform.processor() or platform.machine(), "memory_bytes": psutil.virtual_memory().total},
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "pytorch_lightning": version("pytorch-lightning"),
            },
        },
    )
    os._exit(0)
