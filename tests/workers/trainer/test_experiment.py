"""What modules log through `self.logger.experiment`, as the spool and the outbox have it."""

import json
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.loggers import CSVLogger
from torch import nn

from workers.records import Kept, read_record
from workers.rundir import Order, RunDir
from workers.trainer.logger import SpoolLogger
from workers.trainer.spool import Spool

Given = Callable[..., SpoolLogger]


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "run")


@pytest.fixture
def logger(run: RunDir) -> Given:
    """Makes a logger of a job; keyword arguments are its limits."""

    def made(**limits: int) -> SpoolLogger:
        order = Order("job_1", 1, {}, ["cpu:0"], [], **limits)  # type: ignore[arg-type]  # limits are numbers
        run.create(order)
        return SpoolLogger(Spool(run.spool), run, order)

    return made


def told(run: RunDir, kind: str) -> list[dict[str, Any]]:
    return [record for record in map(json.loads, run.spool.read_text().splitlines()) if record["is"] == kind]


def files(run: RunDir) -> dict[str, bytes]:
    """The newest file of each name, by the records as the supervisor reads them."""
    records = [read_record(line) for line in run.spool.read_bytes().splitlines()]
    return {one.name: (run.outbox / one.file).read_bytes() for one in records if isinstance(one, Kept)}


def ignored(run: RunDir) -> list[dict[str, Any]]:
    return [event["data"] for event in told(run, "event")]


def test_the_calls_of_tensorboard_become_metrics_and_files(logger: Given, run: RunDir) -> None:
    made = logger()
    book = made.experiment
    book.add_scalar("a/b", torch.tensor(2.5), 3)
    book.add_scalars("group", {"x": 1, "y": 2.0}, global_step=4)
    book.add_image("cat", torch.zeros(3, 4, 4), 7)
    book.add_text("a note", "grüße", 1)
    book.add_histogram("w", torch.tensor([0.0, 1.0, 1.0, float("inf")]), 2, bins=2)
    book.add_audio("tone", torch.tensor([[0.0, 1.0, -2.0]]), 5, sample_rate=100)
    book.add_graph(nn.Linear(2, 1), torch.zeros(1, 2))
    book.add_hparams({"lr": 0.1}, {"best": 0.5}, run_name="one")
    book.flush()
    made.finalize("success")
    found = files(run)
    assert found["images/cat/step-00000007.png"].startswith(b"\x89PNG")
    assert found["texts/a note/step-00000001.txt"].decode() == "grüße"
    assert orjson.loads(found["histograms/w/step-00000002.json"]) == {
        "count": 4, "not_finite": 1, "min": 0.0, "max": 1.0, "mean": 2 / 3,
        "std": pytest.approx(2**0.5 / 3), "edges": [0.0, 0.5, 1.0], "counts": [1, 2],
    }  # fmt: skip
    assert "aten::linear" in found["graphs/Linear/step-00000000.txt"].decode()
    assert orjson.loads(found["hyperparameters/one/step-00000000.json"])["hyperparameters"] == {"lr": 0.1}
    sound = run.path / "sound.wav"
    sound.write_bytes(found["audio/tone/step-00000005.wav"])
    with wave.open(str(sound)) as reader:
        assert (reader.getframerate(), reader.getnframes()) == (100, 3)
        assert reader.readframes(3) == b"\x00\x00\xff\x7f\x01\x80"
    values = [(record["step"], record["values"]) for record in told(run, "metrics")]
    assert values == [(3, {"a/b": 2.5}), (4, {"group/x": 1.0, "group/y": 2.0}), (0, {"best": 0.5})]
    assert ignored(run) == []


def test_what_cannot_be_kept_is_said_once_and_raises_nothing(logger: Given, run: RunDir) -> None:
    book = logger().experiment
    for step in range(3):
        book.add_video("film", torch.zeros(1), step)
        book.add_image("odd", torch.zeros(2, 4, 4), step)
        book.add_scalar("words", "no number", step)
        book.config["lr"] = 1
        book.client.run.log_artifact("x").wait()
    assert [one["call"] for one in ignored(run)] == [
        "add_video", "add_image", "log_metrics", "config[…]", "client.run.log_artifact", "client.run.log_artifact.wait",
    ]  # fmt: skip
    assert "2 channels" in ignored(run)[1]["reason"]
    assert files(run) == {}


@pytest.mark.parametrize(
    "tag", ["../../etc/passwd", "/etc/passwd", "..", "", "a\0b", "x" * 5000, "a//b", "été/\u202e", "a/./b", "\ud800"]
)
def test_a_tag_names_no_place_outside_of_its_folder(logger: Given, run: RunDir, tag: str) -> None:
    logger().experiment.add_text(tag, "text", 1)
    (name,) = files(run)  # the supervisor's own check has passed
    assert name.startswith("texts/")
    assert ".." not in name.split("/")
    assert ignored(run) == []


def test_tags_that_are_made_safe_are_still_told_apart(logger: Given, run: RunDir) -> None:
    book = logger().experiment
    book.add_text("a?", "one", 1)
    book.add_text("a!", "two", 1)
    assert sorted(files(run).values()) == [b"one", b"two"]


def test_the_same_tag_and_step_is_one_file_and_a_tag_without_end_keeps_its_newest(logger: Given, run: RunDir) -> None:
    book = logger().experiment
    for step in [0, *range(130)]:
        book.add_text("t", str(step), step)
    found = files(run)
    assert len(found) == 101
    assert found["texts/t/step-00000099.txt"] == b"99"
    assert found["texts/t/newest.txt"] == b"129"


def test_files_are_kept_up_to_a_count_and_a_size(logger: Given, run: RunDir) -> None:
    book = logger(logged_files_max_count=2, logged_files_max_bytes=10).experiment
    book.add_text("a", "1234", 1)
    book.add_text("b", "1234", 1)
    book.add_text("c", "1234", 1)
    book.add_text("a", "12345", 1)
    assert list(files(run)) == ["texts/a/step-00000001.txt", "texts/b/step-00000001.txt"]
    assert [one["reason"].rpartition("LIGHTYARD_")[2] for one in ignored(run)] == [
        "LOGGED_FILES_MAX_COUNT)", "LOGGED_FILES_MAX_BYTES)",
    ]  # fmt: skip


def test_a_call_without_a_step_means_the_present_one(logger: Given, run: RunDir) -> None:
    made = logger()
    made.trainer = Trainer(logger=made, accelerator="cpu", enable_progress_bar=False, enable_checkpointing=False)
    made.trainer.fit_loop.epoch_loop._batches_that_stepped = 12
    made.trainer.fit_loop.epoch_progress.current.completed = 3
    made.experiment.add_scalar("a", 1.0)
    made.experiment.add_text("a", "text")
    made.log_image("seen", [torch.zeros(4, 4), torch.zeros(3, 4, 4)])
    made.log_metrics({"epoch": 2, "nested": {"b": 1}}, step=5)
    made.finalize("success")
    assert [(one["step"], one["epoch"], one["values"]) for one in told(run, "metrics")] == [
        (12, 3, {"a": 1.0}), (5, 2, {"nested/b": 1.0}),
    ]  # fmt: skip
    assert set(files(run)) == {
        "texts/a/step-00000012.txt", "images/seen/0/step-00000012.png", "images/seen/1/step-00000012.png",
    }  # fmt: skip


def test_a_logger_that_the_config_gives_besides_gets_the_calls_that_it_knows(
    logger: Given, run: RunDir, tmp_path: Path
) -> None:
    made, other = logger(), CSVLogger(tmp_path / "csv")
    made.trainer = Trainer(logger=[made, other], accelerator="cpu", enable_progress_bar=False)
    made.experiment.log_metrics({"a": 1.0}, 4)
    made.experiment.add_text("t", "kept")
    assert other.experiment.metrics == [{"a": 1.0, "step": 4}]
    assert made.log_dir == other.log_dir
    made.finalize("success")
    assert told(run, "metrics")[0]["values"] == {"a": 1.0}
    assert "texts/t/step-00000000.txt" in files(run)


def test_logging_draws_no_random_number(logger: Given) -> None:
    book, net = logger().experiment, nn.Sequential(nn.Linear(2, 1), nn.Dropout())
    before = torch.get_rng_state()
    book.add_graph(net, torch.zeros(1, 2))
    book.add_histogram("w", torch.ones(3), 1)
    book.add_image("i", torch.zeros(1, 2, 2), 1)
    assert torch.equal(before, torch.get_rng_state())


def test_what_is_logged_while_the_validation_is_only_checked_is_kept_nowhere(logger: Given, run: RunDir) -> None:
    made = logger()
    made.trainer = Trainer(
        logger=made, accelerator="cpu", max_epochs=1, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, limit_train_batches=1,
    )  # fmt: skip

    class Model(LightningModule):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            return None

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            assert self.logger is not None
            made.experiment.add_text("sanity" if self.trainer.sanity_checking else "training", "text", 0)
            made.experiment.add_scalar("seen", float(self.trainer.sanity_checking), self.trainer.sanity_checking)

        def configure_optimizers(self) -> None:
            return None

    data = torch.utils.data.DataLoader(torch.zeros(1, 1))  # type: ignore[arg-type,var-annotated]  # a tensor is a dataset
    made.trainer.fit(Model(), data, data)
    assert files(run) == {"texts/training/step-00000000.txt": b"text"}
    assert [record["values"] for record in told(run, "metrics")] == [{"seen": 0.0}]
