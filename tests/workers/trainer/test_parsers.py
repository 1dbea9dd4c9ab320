"""What the fork server has made of the parser of configs, and that a trainer's config is what LightningCLI makes."""

import contextlib
import copy
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import jsonargparse._typehints
import pytest
import yaml
from jsonargparse import ArgumentError, Namespace
from pydantic import Field
from pytorch_lightning.cli import LightningCLI

from workers.forkserver import Fork
from workers.trainer import parsers
from workers.trainer.build import JobCLI, as_yaml

EXAMPLES = sorted((Path(__file__).resolve().parents[3] / "examples").glob("*.yaml"))
CONFIG = {
    "seed_everything": 3,
    "model": {"class_path": "models.vision.ImageClassifier", "init_args": {"lr": 1e-5, "width": 4}},
    "data": {"class_path": "models.data.Digits"},
    "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"betas": [0.9, 0.95]}},
    "lr_scheduler": {"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": 2}},
    "trainer": {
        "max_time": "00:01:00:00",
        "limit_val_batches": 0.25,
        "callbacks": [
            {"class_path": "ModelCheckpoint", "init_args": {"monitor": "val_acc", "filename": "größe-{epoch}"}},
            {"class_path": "Timer", "init_args": {"duration": "00:01:00:00"}},
        ],
    },
}


def look(path: str) -> None:
    """Leave what a fork was born with, and what becomes of a config in it and by hand."""
    born_with = {key[0].__module__ + "." + key[0].__name__ for key in jsonargparse._typehints._cached_class_parsers}
    folder = Path(path).with_name("run") / "checkpoints"
    quiet = {"logger": False, "enable_progress_bar": False, "accelerator": "cpu", "devices": 1}
    made = JobCLI(CONFIG, quiet, [], folder)
    hand = LightningCLI(args=CONFIG | {"trainer": CONFIG["trainer"] | quiet}, run=False, save_config_callback=None)
    text = hand.parser.dump(hand.config, skip_none=False, skip_check=True)
    told: dict[str, Any] = {
        "ready": sorted(born_with),
        "same_parser": made.parser is JobCLI(CONFIG, quiet, [], folder).parser,
        "job": as_yaml(made.resolved),
        "hand": text,
        "same_hyperparameters": dict(made.model.hparams) == dict(hand.model.hparams),
    }
    Path(path).write_text(json.dumps(told))


def test_a_trainer_begins_with_a_parser_that_knows_the_catalogue_and_reads_a_config_as_lightningcli_does(
    warm_fork_server: None, tmp_path: Path
) -> None:
    fork = Fork(__name__, "look", str(tmp_path / "told"))
    assert fork.wait(120.0)
    assert fork.exit_code == 0
    told = json.loads((tmp_path / "told").read_text())
    known = {"models.vision.ImageClassifier", "torch.optim.adamw.AdamW", "torch.optim.lr_scheduler.StepLR"}
    assert known <= set(told["ready"])
    assert not told["same_parser"], "what one run has changed is not another's"
    job, hand = (yaml.safe_load(told[name]) for name in ("job", "hand"))
    for flag in ("logger", "enable_progress_bar", "accelerator", "devices"):  # said to the Trainer alone
        job["trainer"].pop(flag), hand["trainer"].pop(flag)
    assert job == hand
    assert told["same_hyperparameters"]


def write_down(path: str) -> None:
    """Leave what a config is written down as, by us and by jsonargparse, for each of the examples and of the sample."""
    parser = parsers.ready()
    parser.trusting = True
    told: dict[str, Any] = {}
    for file in EXAMPLES:
        given = yaml.safe_load(file.read_text())
        given = {key: value for key, value in given.get("config", given).items() if key in parsers.KEYS}
        given["model"].setdefault("init_args", {})["odd"] = {"1": [None, float("inf"), "\x00 ü: -"], "get": True}
        with contextlib.suppress(SystemExit):  # where the model takes no such thing
            parser.parse_object(copy.deepcopy(given))
        del given["model"]["init_args"]["odd"]
        parsed = parser.parse_object(given)
        dumped = parser.dump(parsed, skip_none=False, skip_check=True)
        told[file.name] = [repr(parsers.as_plain(parser, parsed)), repr(yaml.safe_load(dumped))]
    told["paths"] = parsers.as_plain(parser, Namespace(model=Path("models")))
    Path(path).write_text(json.dumps(told))


def test_a_config_is_written_down_as_jsonargparse_would(warm_fork_server: None, tmp_path: Path) -> None:
    fork = Fork(__name__, "write_down", str(tmp_path / "told"))
    assert fork.wait(120.0)
    assert fork.exit_code == 0
    told = json.loads((tmp_path / "told").read_text())
    assert told.pop("paths") is None, "what only jsonargparse can write is left to it"
    assert len(told) == len(EXAMPLES) > 4
    for name, (plain, dumped) in told.items():
        assert plain == dumped, name


def test_what_is_kept_of_a_parser_goes_when_it_is_given_another_argument() -> None:
    parser = parsers.JobParser(exit_on_error=False)
    parser.add_argument("--one.a", type=int, default=1)
    with pytest.raises(ArgumentError, match=r"two\.b"):
        parser.parse_object({"two": {"b": 3}})
    parser.add_argument("--two.b", type=Annotated[int, Field(gt=2)], default=4)
    assert parser.parse_object({"two": {"b": 3}}).as_dict() == {"one": {"a": 1}, "two": {"b": 3}}
    for _ in range(2):
        with pytest.raises(ArgumentError, match="greater than 2"):
            parser.parse_object({"two": {"b": 1}})
    with pytest.raises(ArgumentError, match="Spaces not allowed"):
        parser.parse_object({"two b": 1})


def test_no_more_classes_are_looked_at_beforehand_than_the_limit(monkeypatch: Any) -> None:
    monkeypatch.setattr(parsers, "CLASSES_MAX", 3)
    assert len(list(parsers._samples(["models"]))) == 3


FAULTY = {
    "a parameter that is missing": {"trainer": {"callbacks": [{"class_path": "EarlyStopping"}]}},
    "one of a class that is made later": {"lr_scheduler": {"class_path": "torch.optim.lr_scheduler.StepLR"}},
    "a key that there is not": {"modell": {"lr": 1}},
    "a parameter that there is not": {"trainer": {"max_epoch": 3}},
    "a value of another type": {"model": {"class_path": "models.vision.ImageClassifier", "init_args": {"width": "x"}}},
}


def complain(path: str) -> None:
    """Leave what is said of each faulty config, in a job and by hand."""
    told = {what: [_said(one, CONFIG | fault) for one in (_job, _by_hand)] for what, fault in FAULTY.items()}
    Path(path).write_text(json.dumps(told))


def _job(config: dict[str, Any]) -> None:
    JobCLI(config, {}, [], Path("checkpoints"))


def _by_hand(config: dict[str, Any]) -> None:
    LightningCLI(args=config, run=False, save_config_callback=None)


def _said(make: Callable[[dict[str, Any]], None], config: dict[str, Any]) -> list[str]:
    ended, said = "made", io.StringIO()
    with contextlib.redirect_stderr(said):
        try:
            make(config)
        except BaseException as error:
            ended = repr(error)
    return [ended, said.getvalue().rpartition("error: ")[2]]


def test_what_is_wrong_with_a_config_is_said_as_by_hand(warm_fork_server: None, tmp_path: Path) -> None:
    fork = Fork(__name__, "complain", str(tmp_path / "told"))
    assert fork.wait(120.0)
    assert fork.exit_code == 0
    for what, (job, hand) in json.loads((tmp_path / "told").read_text()).items():
        assert job == hand, what
        assert job[0] == "SystemExit(2)", what
        assert job[1], what
