"""What precision a Trainer trains with, and on which devices it can."""

from collections.abc import Mapping
from typing import Any

BF16_CAPABILITY = (8, 0)
TRANSFORMER_ENGINE_CAPABILITY = (8, 9)
"""From which compute capability on an NVIDIA GPU has the number formats: Ampere's bfloat16, Ada's 8-bit floats."""
XLA_PRECISIONS = ("32-true", "16-true", "bf16-true")
"""All that Lightning's XLAPrecision takes."""
_SHORT = {"16": "16-mixed", "bf16": "bf16-mixed", "32": "32-true", "64": "64-true", "None": "32-true"}


def precision_of(flags: Mapping[str, Any]) -> str:
    """The precision that the Trainer's flags ask for, by its full name."""
    given = str(flags.get("precision"))
    return _SHORT.get(given, given)


def why_lacking(precision: str, device: Mapping[str, Any], versions: Mapping[str, str]) -> str | None:
    """Why an announced device cannot train with a precision; None where it can, or did not say."""
    kind = device["id"].partition(":")[0]
    if kind == "tpu":
        return None if precision in XLA_PRECISIONS else f"on a TPU it can be {', '.join(XLA_PRECISIONS)}"
    if kind == "mps":
        return "Apple's GPUs have no 64-bit floats" if precision == "64-true" else None
    capability = _capability(device)
    if precision.startswith("transformer-engine"):
        if kind != "gpu":
            return "Transformer Engine needs an NVIDIA GPU"
        if "transformer_engine" not in versions and capability is not None:
            return "the package transformer_engine is not installed there"
        if capability is not None and capability < TRANSFORMER_ENGINE_CAPABILITY:
            return f"{_shown(device)}, and 8-bit floats need 8.9"
    if precision.startswith("bf16") and kind == "gpu" and capability is not None and capability < BF16_CAPABILITY:
        return f"{_shown(device)}, and bfloat16 needs 8.0"
    return None


def _capability(device: Mapping[str, Any]) -> tuple[int, int] | None:
    major, dot, minor = str(device.get("compute_capability", "")).partition(".")
    return (int(major), int(minor)) if dot and major.isdigit() and minor.isdigit() else None


def _shown(device: Mapping[str, Any]) -> str:
    return f"{device.get('name') or device['id']} has compute capability {device['compute_capability']}"
