"""A user's module: models and data with every kind of parameter that a config can give."""

import dataclasses
import datetime
import enum
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Le
from jsonargparse.typing import ClosedUnitInterval, PositiveInt
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import nn


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


@dataclasses.dataclass
class Augmentation:
    shift: int = 0
    flip: bool = False


class Encoder(nn.Module):
    """A plain module."""

    def __init__(self, width: int, activation: Callable[[torch.Tensor], torch.Tensor] = torch.relu) -> None:
        super().__init__()


class Net(LightningModule):
    """A model with one parameter of each kind.

    Args:
        hidden: Width of the hidden layer.
    """

    def __init__(
        self,
        hidden: int = 8,
        lr: float = 1e-3,
        name: str = "net",
        flag: bool = False,
        colour: Colour = Colour.RED,
        mode: Literal["a", "b"] = "a",
        count: PositiveInt = 3,
        share: ClosedUnitInterval = 0.5,
        bounded: Annotated[int, Ge(1), Le(9)] = 2,
        sizes: list[int] = [1, 2],  # noqa: B006 - LightningCLI users write it
        pair: tuple[int, float] = (1, 2.0),
        weights: Mapping[str, float] | None = None,
        by_epoch: dict[int, int] | None = None,
        path: Path | None = None,
        every: datetime.timedelta | None = None,
        anything: Any = None,
        number_or_name: int | str = 1,
        augmentation: Augmentation = Augmentation(),  # noqa: B008
        encoder: nn.Module | None = None,
        layers: Sequence[nn.Module] | None = None,
        loss: type[nn.Module] = nn.MSELoss,
        dtype: torch.dtype = torch.float32,
        activation: Callable = torch.relu,
        optimizer: OptimizerCallable = torch.optim.Adam,
        scheduler: LRSchedulerCallable | None = None,
        infinite: float = float("inf"),
        tensor: torch.Tensor | None = None,
        trainer_object: Trainer | None = None,
        _private: int = 0,
    ) -> None:
        super().__init__()
        self.anything = anything


class Child(Net):
    """Takes what its parent takes."""

    def __init__(self, extra: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)


class Blobs(LightningDataModule):
    """Data with an argument that must be given."""

    def __init__(self, batch_size: int, folder: str = "data") -> None:
        super().__init__()


class Note(Callback):
    """A callback of the user's own."""

    def __init__(self, text: str = "") -> None:
        pass


def double(x: torch.Tensor) -> torch.Tensor:
    """A function that a config may name."""
    return 2 * x
