"""The classes and functions that a config may name: those of the catalogue modules, and Lightning's and torch's own."""

import enum
import importlib
import inspect
import pkgutil
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import pytorch_lightning as pl
import pytorch_lightning.callbacks.finetuning
import pytorch_lightning.cli
import pytorch_lightning.loggers
import pytorch_lightning.profilers
import torch
from lightning_fabric import Fabric
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from core.catalog import Kind
from core.errors import Fault
from models.data import Loaders
from workers.trainer.import_paths import defining_path, import_path
from workers.trainer.plain_loaders import makes_loaders

# Bases, not to be made themselves, and what makes no sense in a job.
_LEFT_OUT: set[type] = {
    pl.Callback,
    pl.callbacks.BaseFinetuning,
    pl.callbacks.BasePredictionWriter,
    pl.callbacks.Checkpoint,
    pl.callbacks.ProgressBar,
    pl.profilers.Profiler,
    pl.profilers.XLAProfiler,
    torch.optim.Optimizer,
    LRScheduler,
    nn.Module,
    nn.Container,
    nn.DataParallel,
}
_KINDS: list[tuple[type, Kind]] = [
    (pl.LightningModule, Kind.MODEL),
    (pl.LightningDataModule, Kind.DATA),
    (pl.Callback, Kind.CALLBACK),
    (torch.optim.Optimizer, Kind.OPTIMIZER),
    (LRScheduler, Kind.LR_SCHEDULER),
    (pl.loggers.Logger, Kind.LOGGER),
    (pl.profilers.Profiler, Kind.PROFILER),
    (nn.Module, Kind.MODULE),
]
_TORCH_FUNCTIONS = ("relu", "sigmoid", "tanh", "softmax", "log_softmax", "selu", "celu", "sin", "cos", "square")


@dataclass
class Announced:
    """One class or function, with every path that means it."""

    thing: Any
    path: str
    kind: Kind
    builtin: bool
    aliases: set[str] = field(default_factory=set)

    @property
    def is_plain_data(self) -> bool:
        """Whether a config may give it as `data`, although it is no data module."""
        return self.kind is Kind.DATA and not _is_data_module(self.thing)


class Classes:
    """What a config may name, by identity, as it is found; modules that cannot be imported are faults."""

    def __init__(self, modules: Sequence[str]) -> None:
        self.found: dict[int, Announced] = {}
        self.faults: list[Fault] = []
        for thing in _builtins():
            self.add(thing, builtin=True)
        for name, thing in vars(nn.functional).items():
            if inspect.isroutine(thing) and getattr(thing, "__name__", "") == name and not name.startswith("_"):
                self.add(thing, builtin=True, path=f"torch.nn.functional.{name}")
        for name in modules:
            for module in self._import(name):
                self._add_module(module, name)

    def __iter__(self) -> Iterator[Announced]:
        return iter(list(self.found.values()))

    def add(self, thing: Any, *, builtin: bool = False, alias: str | None = None, path: str | None = None) -> None:
        """Announce a class or a function, under `path` or else its own, if it has one."""
        known = self.found.get(id(thing))
        if known is None:
            path = path or import_path(thing)
            if path is None:
                return
            known = self.found[id(thing)] = Announced(thing, path, _kind(thing), builtin)
        known.aliases |= {path for path in (alias, defining_path(thing)) if path and path != known.path}

    def _import(self, name: str) -> Iterator[ModuleType]:
        """The module and, of a package, all below it."""
        try:
            module = importlib.import_module(name)
        except (Exception, SystemExit) as error:
            self.faults.append(Fault(name, "import_failed", f"{type(error).__name__}: {error}"))
            return
        yield module
        for found in pkgutil.iter_modules(getattr(module, "__path__", ()), f"{name}."):
            if not found.name.endswith(".__main__"):
                yield from self._import(found.name)

    def _add_module(self, module: ModuleType, root: str) -> None:
        for name, thing in vars(module).items():
            home = getattr(thing, "__module__", None)
            if name.startswith("_") or not isinstance(home, str) or not (home == root or home.startswith(f"{root}.")):
                continue
            if _is_announceable(thing):
                self.add(thing, alias=f"{module.__name__}.{name}")


def _is_announceable(thing: Any) -> bool:
    if inspect.isfunction(thing):
        return not thing.__name__.startswith("_")
    return (
        inspect.isclass(thing)
        and not thing.__name__.startswith("_")
        and not inspect.isabstract(thing)
        and not issubclass(thing, (BaseException, enum.Enum))
        and not typing.is_typeddict(thing)
        and not hasattr(thing, "_fields")
        and not getattr(thing, "_is_protocol", False)
    )


def _builtins() -> Iterator[Any]:
    has_rich = importlib.util.find_spec("rich") is not None
    for owner in (pl.callbacks, pl.profilers, torch.optim, torch.optim.lr_scheduler):
        for name in owner.__all__:
            thing = getattr(owner, name)
            if inspect.isclass(thing) and thing not in _LEFT_OUT and (has_rich or not name.startswith("Rich")):
                yield thing
    yield pl.callbacks.finetuning.multiplicative  # BackboneFinetuning's default
    yield pl.cli.ReduceLROnPlateau
    yield Loaders  # what plain loaders become
    yield pl.loggers.CSVLogger
    if _has_tensorboard():
        yield pl.loggers.TensorBoardLogger
    for thing in vars(nn).values():
        if inspect.isclass(thing) and issubclass(thing, nn.Module) and thing not in _LEFT_OUT:
            yield thing
    for name in _TORCH_FUNCTIONS:
        yield getattr(torch, name)


def _has_tensorboard() -> bool:
    return any(importlib.util.find_spec(name) is not None for name in ("tensorboard", "tensorboardX"))


def _kind(thing: Any) -> Kind:
    if thing is pl.Trainer:
        return Kind.TRAINER
    other = Kind.DATA if makes_loaders(thing) else Kind.OBJECT if inspect.isclass(thing) else Kind.FUNCTION
    if not inspect.isclass(thing):
        return other
    if is_loop(thing):
        return Kind.LOOP
    return next((kind for base, kind in _KINDS if issubclass(thing, base)), other)


def _is_data_module(thing: Any) -> bool:
    return inspect.isclass(thing) and issubclass(thing, pl.LightningDataModule)


def is_loop(thing: Any) -> bool:
    """Whether a class is a training loop on Fabric: its own `run` takes the Fabric object, as `fabric` or by type."""
    run = getattr(thing, "run", None)
    others = (Fabric, *(base for base, _ in _KINDS))
    if not inspect.isclass(thing) or issubclass(thing, others) or not inspect.isfunction(run):
        return False
    takes = list(inspect.signature(run).parameters.values())[1:2]
    return any(first.name == "fabric" or _last_name(first.annotation) == Fabric.__name__ for first in takes)


def _last_name(annotation: Any) -> str:
    name: str = getattr(annotation, "__name__", str(annotation))
    return name.rpartition(".")[2]
