from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from pytorch_lightning import LightningDataModule, Trainer
from pytorch_lightning.demos.boring_classes import BoringModel
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch.utils.data import DataLoader, Dataset, TensorDataset

from models.data import Loaders


def loader(size: int = 4, shuffle: bool = False) -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.arange(float(size))), batch_size=2, shuffle=shuffle)


class Split(NamedTuple):
    train: Any
    test: Any = None


class Pair(NamedTuple):
    first: Any
    second: Any


class Maker:
    """Its instances return loaders."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self) -> tuple[DataLoader[Any], DataLoader[Any]]:
        return loader(self.size), loader(2)


TRAIN, OTHER = loader(), loader(2)


@pytest.mark.parametrize(
    ("made", "roles"),
    [
        (TRAIN, {"train": TRAIN}),
        ((TRAIN, OTHER), {"train": TRAIN, "val": OTHER}),
        ((TRAIN, None, OTHER), {"train": TRAIN, "test": OTHER}),
        ((TRAIN, [OTHER, OTHER]), {"train": TRAIN, "val": [OTHER, OTHER]}),
        (Split(TRAIN, OTHER), {"train": TRAIN, "test": OTHER}),
        (Split(TRAIN), {"train": TRAIN}),
        (Pair(TRAIN, OTHER), {"train": TRAIN, "val": OTHER}),
        ({"predict": OTHER, "train": TRAIN}, {"train": TRAIN, "predict": OTHER}),
        ({"train": {"a": TRAIN, "b": OTHER}}, {"train": {"a": TRAIN, "b": OTHER}}),
    ],
)
def test_each_loader_is_asked_for_under_what_it_is_for(made: Any, roles: dict[str, Any]) -> None:
    data = Loaders(lambda: made)
    data.prepare_data()
    data.setup("fit")
    for role, expected in roles.items():
        assert getattr(data, f"{role}_dataloader")() == expected
    for role in {"test", "predict"} - roles.keys():
        with pytest.raises(ValueError, match=f"and none for {role}: return a mapping"):
            getattr(data, f"{role}_dataloader")()
    assert is_overridden("val_dataloader", data) is ("val" in roles)


@pytest.mark.parametrize(
    ("made", "error", "words"),
    [
        (None, TypeError, "returned no DataLoader"),
        (3, TypeError, "for train a int: return a DataLoader"),
        ("path/to/data", TypeError, "for train a str: return a DataLoader"),
        (torch.ones(3), TypeError, "for train a Tensor: return a DataLoader"),
        (TRAIN.dataset, TypeError, "for train the dataset TensorDataset: wrap it in a DataLoader"),
        (iter(TRAIN), TypeError, "used up after one epoch"),
        ([TRAIN, OTHER], TypeError, r"returned a list: return a tuple \(train, val"),
        ((TRAIN, TRAIN.dataset), TypeError, "for val the dataset"),
        ((TRAIN,) * 5, ValueError, "a tuple of 5: at most 4"),
        ({"training": TRAIN}, ValueError, "loaders for 'training'; known are train, val"),
        ((), TypeError, "returned no DataLoader"),
    ],
)
def test_what_is_no_loader_is_refused_with_what_to_return(made: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Loaders(lambda: made).prepare_data()


def test_arguments_are_read_as_those_of_a_class() -> None:
    data = Loaders(loader, {"size": "6", "shuffle": True})
    assert len(data.train_dataloader()) == 3
    data = Loaders(loader)
    assert len(data.train_dataloader()) == 2
    for wrong in ({"size": "many"}, {"sizes": 3}, {"size": None, "shuffle": "perhaps"}):
        with pytest.raises(Exception, match=r"size|shuffle"):
            Loaders(loader, wrong)


def test_an_object_among_the_arguments_is_built() -> None:
    arguments = {"dataset": {"class_path": f"{__name__}.Squares", "init_args": {"count": 5}}}
    data = Loaders(of_dataset, arguments)
    batches = list(data.train_dataloader())
    assert torch.cat(batches).tolist() == [0, 1, 4, 9, 16]


def test_instances_that_return_loaders_are_called() -> None:
    data = Loaders(Maker, {"size": 8})
    data.setup("fit")
    assert (len(data.train_dataloader()), len(data.val_dataloader())) == (4, 1)


def test_what_a_function_has_returned_is_no_function() -> None:
    made: Any = loader()
    with pytest.raises(TypeError, match="give the path of the function alone"):
        Loaders(made)


def test_the_function_is_called_once_in_each_process() -> None:
    calls: list[int] = []

    def counted() -> tuple[DataLoader[Any], DataLoader[Any]]:
        calls.append(1)
        return loader(), loader()

    first, other = Loaders(counted), Loaders(counted)
    first.prepare_data()
    first.setup("fit")
    first.train_dataloader()
    first.val_dataloader()
    assert len(calls) == 1
    other.setup("fit")  # as on a rank behind the first
    other.train_dataloader()
    assert len(calls) == 2


@pytest.mark.parametrize("fit", [lambda: (rows(), rows()), lambda: rows()])
def test_lightning_trains_and_validates_with_what_there_is(fit: Callable[[], Any], tmp_path: Any) -> None:
    class Counting(BoringModel):
        validated = 0

        def on_validation_epoch_end(self) -> None:
            self.validated += 1

    model = Counting()
    flags: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_epochs=2, accelerator="cpu", default_root_dir=tmp_path, enable_model_summary=False, **flags)
    trainer.fit(model, datamodule=Loaders(fit))
    assert trainer.global_step == 4
    assert model.validated == (3 if isinstance(fit(), tuple) else 0)  # the sanity check, and each epoch


def test_it_is_a_data_module() -> None:
    assert isinstance(Loaders(loader), LightningDataModule)


class Squares(Dataset[int]):
    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> int:
        return index * index


def of_dataset(dataset: Dataset, batch_size: int = 2) -> DataLoader[Any]:  # type: ignore[type-arg]  # as users write it
    return DataLoader(dataset, batch_size)


def rows() -> DataLoader[Any]:
    return DataLoader(torch.randn(4, 32), batch_size=2)  # type: ignore[arg-type]  # torch takes what can be indexed
