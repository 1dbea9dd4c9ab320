"""`torch.compile` for a module that LightningCLI makes."""

from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import nn
from torchmetrics import Metric, MetricCollection

Mode = Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]


class Compile(Callback):
    """Compiles the module's `forward` and its networks in place, before the run: the Trainer has no flag for it.

    The steps stay Python, for what they log is no computation; weights and checkpoints keep their names. The first
    batches take long: that is when the code is generated. `inductor` needs a C++ compiler on a CPU.
    """

    def __init__(
        self,
        backend: Literal["inductor", "aot_eager", "eager", "cudagraphs"] = "inductor",
        mode: Mode | None = None,
        dynamic: bool | None = None,
        fullgraph: bool = False,
    ) -> None:
        """Choose how to compile; the arguments are those of `torch.compile`.

        Args:
            backend: What generates the code; `eager` and `aot_eager` generate none, and show where graphs break.
            mode: What `inductor` optimizes for; not with another backend.
            dynamic: Whether shapes may change without compiling again; null: found out as they change.
            fullgraph: Whether a step that cannot be one graph is an error, instead of several graphs.
        """
        if mode is not None and backend != "inductor":
            raise ValueError(f"mode is {mode!r}, and only the backend inductor takes one: leave mode out")
        self._options: dict[str, Any] = {"backend": backend, "mode": mode, "dynamic": dynamic, "fullgraph": fullgraph}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """All networks are made by now: what is made lazily draws the numbers that it draws otherwise."""
        self._compile(pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Where a run only validates."""
        self._compile(pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Where a run only tests."""
        self._compile(pl_module)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Where a run only predicts."""
        self._compile(pl_module)

    def _compile(self, module: LightningModule) -> None:
        for part in (module, *_networks(module)):
            if part._compiled_call_impl is None:
                # As `part.compile()` has it, which leaves out torch's own layers: their code is not traced by itself.
                part._compiled_call_impl = torch.compile(_call_of(part), **self._options)


def _call_of(part: nn.Module) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        return part._call_impl(*args, **kwargs)  # type: ignore[no-untyped-call]

    return call


def _networks(module: nn.Module) -> Iterator[nn.Module]:
    """What a step may call by itself: each part of a module, those in lists and dictionaries too, but no metrics."""
    for part in module.children():
        if isinstance(part, (nn.ModuleList, nn.ModuleDict)) and not isinstance(part, MetricCollection):
            yield from _networks(part)
        elif not isinstance(part, (Metric, MetricCollection)):
            yield part
