"""What a run starts from: what is taken of it, and what is told where it cannot be used."""

from argparse import Namespace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule
from torch import nn

from workers.rundir import EXACT, PLAIN, Order, RunDir
from workers.trainer.origin import (
    NO_PLACE,
    OTHER_RANKS,
    OTHER_RUN,
    Origin,
    UnusableCheckpoint,
    check_weights,
    hyperparameters_that_run_code,
    logged_at,
    read_safely,
)
from workers.trainer.spool import Spool


class Started(LightningModule):
    def __init__(self, width: int = 2, *, bias: bool = True) -> None:
        super().__init__()
        self.layer = nn.Linear(3, width, bias=bias)


def origin(folder: Path, **order: Any) -> Origin:
    run = RunDir(folder)
    (folder / "spool").touch()
    given: dict[str, Any] = {"start": PLAIN, "config": {"ckpt_path": "ckpt_1"}} | order
    return Origin(run, Order("job_1", 1, devices=["cpu:0"], catalog_modules=[], **given), Spool(run.spool))


def checkpoint(**parts: Any) -> dict[str, Any]:
    progress = {"ready": 2, "processed": 2}
    loop = {"epoch_progress": {"current": progress}, "epoch_loop.state_dict": {"_batches_that_stepped": 20}}
    whole = {"state_dict": {}, "optimizer_states": [], "loops": {"fit_loop": loop}, "epoch": 1, "global_step": 40}
    return whole | {"callbacks": {"EarlyStopping": {}, "Recovery": {"ranks": [{}]}}} | parts


@pytest.mark.parametrize(
    ("order", "parts", "why"),
    [
        ({"start": EXACT}, {}, None),
        ({"start": PLAIN}, {}, OTHER_RUN),
        ({"start": EXACT}, {"callbacks": {}}, NO_PLACE),
        ({"start": EXACT}, {"callbacks": {"Recovery": {"ranks": [{}, {}]}}}, OTHER_RANKS),
        ({"start": EXACT, "subcommand": "test"}, {}, NO_PLACE),
    ],
)
def test_a_place_is_taken_only_where_the_run_is_the_same(
    tmp_path: Path, order: dict[str, Any], parts: dict[str, Any], why: str | None
) -> None:
    start = origin(tmp_path, **order)
    taken = start.taken(checkpoint(**parts))
    assert start._why_plain == why
    assert ("Recovery" in taken["callbacks"]) == (why is None)


def test_what_to_go_on_from_is_a_recovery_then_the_start_then_what_lightning_calls_last(tmp_path: Path) -> None:
    assert origin(tmp_path, resume=True).path == str(tmp_path / "resume.ckpt")
    assert origin(tmp_path).path == str(tmp_path / "start.ckpt")
    assert origin(tmp_path, start="", config={"ckpt_path": "last"}).path == "last"
    assert origin(tmp_path, start="", config={}).path is None


def test_a_checkpoint_of_weights_alone_can_be_tested_but_not_gone_on_with(tmp_path: Path) -> None:
    weights = checkpoint()
    del weights["optimizer_states"]
    assert origin(tmp_path, subcommand="test").taken(weights)
    with pytest.raises(UnusableCheckpoint, match="name it as `weights_from`"):
        origin(tmp_path).taken(weights)
    with pytest.raises(UnusableCheckpoint, match="ckpt_1 was not saved by a LightningModule"):
        origin(tmp_path).taken({"model": {}})


@pytest.mark.parametrize(
    ("theirs", "told"),
    [
        (Started(bias=False), "not in the checkpoint: layer.bias."),
        (Started(4), "of another shape: layer.weight ((4, 3) in the checkpoint, (2, 3) in the model), layer.bias"),
        (
            nn.Sequential(nn.Linear(1, 1)),
            "not in the checkpoint: layer.bias, layer.weight; not in the model: 0.bias, 0.w",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(theirs: nn.Module, told: str) -> None:
    with pytest.raises(UnusableCheckpoint) as refused:
        check_weights(theirs.state_dict(), Started())
    assert told in str(refused.value)


def test_a_module_that_is_not_strict_takes_what_fits() -> None:
    loose = Started()
    loose.strict_loading = False
    check_weights(Started(bias=False).state_dict() | {"more": torch.zeros(1)}, loose)
    with pytest.raises(UnusableCheckpoint, match="another shape"):
        check_weights(Started(4).state_dict(), loose)


def test_a_checkpoints_values_stand_where_its_run_logged_those_of_the_moment() -> None:
    assert logged_at(checkpoint()) == (19, 1), "an epoch's end, when the last step has been counted"
    amidst = checkpoint()
    amidst["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"] = 1
    assert logged_at(amidst) == (20, 1)
    assert logged_at({"global_step": 7, "state_dict": {}}) == (7, 0)


def test_hyperparameters_that_load_only_by_running_code_are_found(tmp_path: Path) -> None:
    given = {"lr": 0.1, "sizes": [1, 2], "folder": Path("x"), "wait": timedelta(1), "space": Namespace(a=1)}
    saved = {"hyper_parameters": given, "datamodule_hyper_parameters": {"layer": nn.Linear(1, 1)}}
    assert hyperparameters_that_run_code(saved) == ["folder", "wait", "space", "layer"]
    torch.save(saved, tmp_path / "x.ckpt")
    with pytest.raises(UnusableCheckpoint, match="weights_from cannot be loaded without running code"):
        read_safely(tmp_path / "x.ckpt", "weights_from")
