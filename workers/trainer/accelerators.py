"""Whether what a job was given to train on is there, told before Lightning looks for it."""

from collections.abc import Sequence
from importlib.util import find_spec

import torch
from pytorch_lightning.accelerators import XLAAccelerator

from core.states import ReasonCode
from workers.rundir import Outcome


def missing(devices: Sequence[str]) -> Outcome | None:
    """How a run on these devices ends before it begins; None where it can begin."""
    kind = devices[0].partition(":")[0]
    given = ", ".join(devices)
    if kind == "gpu" and torch.cuda.device_count() < len(devices):
        found = torch.cuda.device_count()
        return _lacking(f"the job was given {given}, but CUDA sees {found} of them in the trainer")
    if kind == "tpu" and find_spec("torch_xla") is None:
        return _lacking(
            f"the job was given {given}, but torch_xla is not installed in this worker's Python: install it there"
        )
    if kind == "tpu" and not XLAAccelerator.is_available():
        return _lacking(f"the job was given {given}, but torch_xla finds no TPU on this machine")
    return None


def _lacking(message: str) -> Outcome:
    return Outcome("failed", ReasonCode.NO_SUCH_DEVICE, message)
