"""Plain DataLoaders in place of a data module: what a function, or a class, makes of its arguments."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MethodType
from typing import Any

from pytorch_lightning import LightningDataModule
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor
from torch.utils.data import Dataset

ROLES = ("train", "val", "test", "predict")


class Loaders(LightningDataModule):
    """The DataLoaders that a function returns: one to train on; a tuple of those for training, validation, test and
    prediction, as many of these as there are; or a mapping of some of `train`, `val`, `test` and `predict`.

    The function is called once in each process: on the first of a machine as `prepare_data`, so that what it downloads
    is there when it is called on the others.
    """

    def __init__(self, loaders: type | Callable[..., Any], arguments: dict[str, Any] | None = None) -> None:
        """Read the arguments as LightningCLI reads those of a class; nothing is called yet.

        Args:
            loaders: Path of the function; of a class whose instances are DataLoaders; or of one whose instances return
                them when they are called.
            arguments: Its arguments.

        Raises:
            TypeError: `loaders` is what a function returned, and not the function.
            ArgumentError: the arguments are not those that it takes.
        """
        super().__init__()
        if not callable(loaders):
            raise TypeError(
                f"`loaders` is a {type(loaders).__name__}, and not a function that makes DataLoaders: give the path of "
                "the function alone, and its arguments as `arguments`."
            )
        self.loaders = loaders
        self._call = _reader(loaders, arguments or {})
        self._made: dict[str, Any] | None = None

    def prepare_data(self) -> None:
        """Make the loaders: whatever that downloads is there from now on."""
        self._make()

    def setup(self, stage: str) -> None:
        """Make the loaders, where this process has not."""
        if "val" not in self._make() and stage == TrainerFn.FITTING:
            # As if there were no such method: Lightning leaves validation out.
            self.val_dataloader = MethodType(LightningDataModule.val_dataloader, self)  # type: ignore[method-assign]

    def train_dataloader(self) -> Any:
        """The loader to train on."""
        return self._of("train")

    def val_dataloader(self) -> Any:
        """The loader, or the loaders, for validation."""
        return self._of("val")

    def test_dataloader(self) -> Any:
        """The loader, or the loaders, for the test."""
        return self._of("test")

    def predict_dataloader(self) -> Any:
        """The loader, or the loaders, to predict for."""
        return self._of("predict")

    def _make(self) -> dict[str, Any]:
        if self._made is None:
            made = self._call()
            if isinstance(self.loaders, type) and callable(made):
                made = made()
            self._made = by_role(made, self._name)
        return self._made

    def _of(self, role: str) -> Any:
        made = self._make()
        if role not in made:
            raise ValueError(
                f"{self._name} returned loaders for {', '.join(made)}, and none for {role}: return a mapping that has "
                f"`{role}`, or a tuple that is long enough ({', '.join(ROLES)})."
            )
        return made[role]

    @property
    def _name(self) -> str:
        return getattr(self.loaders, "__qualname__", type(self.loaders).__qualname__)


def _reader(loaders: Callable[..., Any], arguments: dict[str, Any]) -> Callable[[], Any]:
    """A call of `loaders` with these arguments, once they have been read.

    The parser is kept in the call alone: no part of the data, it is none of those who look through them.
    """
    # Imported here: who imports the models for something else is spared it.
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    if isinstance(loaders, type):
        parser.add_class_arguments(loaders, fail_untyped=False)
    else:
        parser.add_function_arguments(loaders, fail_untyped=False)
    read = parser.parse_object(arguments)
    return lambda: loaders(**vars(parser.instantiate_classes(read)))


def by_role(made: Any, name: str) -> dict[str, Any]:
    """What a function of that name returned, by what it is for.

    Raises:
        TypeError: it is something else than loaders.
        ValueError: there are too many, or for something else than `ROLES`.
    """
    if isinstance(made, Mapping):
        found = dict(made)
    elif isinstance(made, tuple):
        names = getattr(made, "_fields", ())
        if len(made) > len(ROLES):
            raise ValueError(f"{name} returned a tuple of {len(made)}: at most {len(ROLES)} ({', '.join(ROLES)}).")
        found = dict(zip(names if names and set(names) <= set(ROLES) else ROLES, made, strict=False))
    else:
        found = {"train": made}
        if isinstance(made, list):
            raise TypeError(f"{name} returned a list: return a tuple ({', '.join(ROLES)}), or a mapping of these.")
    if unknown := [key for key in found if key not in ROLES]:
        raise ValueError(f"{name} returned loaders for {', '.join(map(repr, unknown))}; known are {', '.join(ROLES)}.")
    found = {role: loaders for role, loaders in found.items() if loaders is not None}
    for role, loaders in found.items():
        for one in loaders if isinstance(loaders, (list, tuple)) else [loaders]:
            if why := _no_loader(one):
                raise TypeError(f"{name} returned for {role} {why}.")
    if not found:
        raise TypeError(f"{name} returned no DataLoader.")
    return found


def _no_loader(thing: Any) -> str | None:
    """Why Lightning cannot go through this once each epoch; None: it can."""
    kind = type(thing).__name__
    if isinstance(thing, Dataset):
        return f"the dataset {kind}: wrap it in a DataLoader"
    if isinstance(thing, Iterator):
        return f"a {kind}, which is used up after one epoch: return a DataLoader"
    if not isinstance(thing, Iterable) or isinstance(thing, (str, bytes, Tensor)):
        return f"a {kind}: return a DataLoader"
    return None
