"""Plain DataLoaders in place of a data module: what is taken for one, and that a run is the same in every form."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import pytest
import torch
from pytorch_lightning import LightningDataModule
from pytorch_lightning.cli import LightningCLI
from torch.utils.data import DataLoader

from core.catalog import LOADERS, Kind
from core.validate import validate
from tests.workers.trainer.runs import (
    NEVER,
    Case,
    assert_same_end,
    differences,
    events,
    last_checkpoint,
    recoveries,
    train,
)
from workers.rundir import Outcome, RunDir
from workers.trainer.describe import describe
from workers.trainer.plain_loaders import makes_loaders

Some = DataLoader[Any]
FUNCTION, MODULE = "examples.lessons.loaders.digit_loaders", "examples.lessons.loaders"


class Named(NamedTuple):
    train: Some
    val: Some | None = None


class Typed(TypedDict):
    train: Some


class Numbers(NamedTuple):
    one: int


class Own(DataLoader[int]):
    pass


class Called:
    def __call__(self) -> Some: ...


class CalledForNothing:
    def __call__(self) -> int: ...


class Module(LightningDataModule):
    pass


def returning(hint: Any) -> Any:
    def function() -> None: ...

    function.__annotations__ = {"return": hint}
    return function


@pytest.mark.parametrize(
    "hint",
    [
        *(DataLoader, Some, Own, Some | None, "DataLoader[Any]", Named, Typed),
        *(tuple[Some, Some], tuple[Some, ...], tuple[Some, list[Some]], tuple[Some, None]),
        *(dict[str, Some], Mapping[str, Some | None]),
    ],
)
def test_a_function_annotated_to_return_loaders_makes_loaders(hint: Any) -> None:
    assert makes_loaders(returning(hint))


@pytest.mark.parametrize(
    "hint", [None, int, Any, list[Some], set[Some], Numbers, tuple[int, int], dict[str, int], "NoSuchName", Module]
)
def test_a_function_annotated_to_return_something_else_does_not(hint: Any) -> None:
    assert not makes_loaders(returning(hint))


def test_classes_of_loaders_make_them_and_others_do_not() -> None:
    assert [makes_loaders(kind) for kind in (Own, Called)] == [True, True]
    assert [makes_loaders(kind) for kind in (CalledForNothing, Named, Module, int)] == [False] * 4
    assert not makes_loaders(lambda: None)


def config(data: Any, **flags: Any) -> dict[str, Any]:
    trainer = {"accelerator": "cpu", "devices": 1, "max_epochs": 2, "limit_train_batches": 6, "limit_val_batches": 2}
    last = {"class_path": "ModelCheckpoint", "init_args": {"save_last": True}}
    return {
        "seed_everything": 3,
        "model": {"class_path": "models.vision.ImageClassifier", "init_args": {"width": 4}},
        "data": data,
        "trainer": trainer | {"log_every_n_steps": 1, "enable_model_summary": False, "callbacks": [last]} | flags,
    }


def short(**arguments: Any) -> dict[str, Any]:
    return {"class_path": FUNCTION, "init_args": arguments}


def long(**arguments: Any) -> dict[str, Any]:
    return {"class_path": "models.data.Loaders", "init_args": {"loaders": FUNCTION, "arguments": arguments}}


def test_what_a_config_may_give_is_announced_and_validated() -> None:
    catalog = describe(["models", MODULE])
    entry = catalog.get(FUNCTION)
    assert entry is not None
    assert (entry.kind, LOADERS in entry.bases) == (Kind.DATA, True)
    assert entry.schema["properties"]["batch_size"]["default"] == 64
    for fine in (short(batch_size=32), long(batch_size=32), FUNCTION, "digit_loaders"):
        assert validate(config(fine), catalog) == []
    faults = validate(config(short(batch_size="many", batches=3)), catalog)
    assert [(one.pointer, one.code) for one in faults] == [
        ("/data/init_args/batch_size", "wrong_type"),
        ("/data/init_args/batches", "unknown_argument"),
    ]
    (fault,) = validate(config("torch.nn.functional.relu"), catalog)
    assert (fault.pointer, fault.code) == ("/data", "wrong_kind")
    assert "must be annotated to return a DataLoader" in fault.message
    (fault,) = validate(config(None) | {"model": FUNCTION}, catalog)
    assert "what makes DataLoaders; here goes a LightningModule" in fault.message


@dataclass(frozen=True)
class Digits(Case):
    """A run of an image classifier on plain loaders."""

    model: str = "none of exacting's"
    data: dict[str, Any] = field(default_factory=dict)

    def config(self, **_: Any) -> dict[str, Any]:
        return config(self.data)


def trained(folder: Path, data: dict[str, Any], **options: Any) -> RunDir:
    run = train(folder, Digits(data=data, asks={"data_locks": str(folder / "locks")}), **options)
    assert run.read_outcome() == Outcome("succeeded"), run.log_tail(3000)
    return run


@pytest.mark.usefixtures("warm_fork_server")
def test_a_run_is_the_same_in_short_in_long_and_by_hand(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    by_hand = config(long(batch_size=32), default_root_dir=str(tmp_path / "hand"), enable_progress_bar=False)
    LightningCLI(args={"subcommand": "fit", "fit": by_hand}, save_config_callback=None)
    torch.set_num_threads(threads)
    (last,) = (tmp_path / "hand").rglob("last.ckpt")
    expected = torch.load(last, weights_only=True)
    for name, data in {"short": short(batch_size=32), "long": long(batch_size=32)}.items():
        found = last_checkpoint(trained(tmp_path / name, data, interval_seconds=NEVER))
        compared = ("state_dict", "optimizer_states", "global_step", "epoch")
        assert (
            differences({key: expected[key] for key in compared}, {key: found[key] for key in compared}, ("", "")) == []
        )


@pytest.mark.usefixtures("warm_fork_server")
def test_a_run_on_shuffled_loaders_with_workers_goes_on_exactly(tmp_path: Path) -> None:
    data = short(batch_size=32, num_workers=2)
    whole = trained(tmp_path, data)
    place = next(place for place in recoveries(whole) if place["step"] == 9)  # in the second epoch
    resumed = trained(tmp_path, data, resume=(whole, place), interval_seconds=NEVER)
    assert [told["resume"] for told in events(resumed, "resumed")] == ["exact"]
    assert_same_end(whole, resumed)
