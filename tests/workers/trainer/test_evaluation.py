"""Runs that test or predict: what they leave, and that they stop between two batches."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.waiting import wait_until
from tests.workers.trainer.runs import MODULES, ended, events, records
from workers.forkserver import Fork
from workers.rundir import Control, Order, Outcome, RunDir

Start = Callable[..., tuple[RunDir, list[Fork]]]


@pytest.fixture
def start(warm_fork_server: None, tmp_path: Path) -> Start:
    """Starts a run of `predicting.Predicting`, one fork a rank."""

    def begin(
        subcommand: str,
        *,
        ranks: int = 1,
        asked: Control | None = None,
        keys: dict[str, Any] | None = None,
        **init_args: Any,
    ) -> tuple[RunDir, list[Fork]]:
        flags: dict[str, Any] = {"devices": ranks, "accelerator": "cpu", "enable_model_summary": False}
        flags |= {"strategy": "ddp"} if ranks > 1 else {}
        model = {"class_path": "predicting.Predicting", "init_args": init_args}
        run = RunDir(tmp_path / "attempt-1")
        run.create(
            Order(
                job_id="job_1",
                attempt=1,
                config={"seed_everything": 1, "model": model, "trainer": flags} | (keys or {}),
                devices=[f"cpu:{rank}" for rank in range(ranks)],
                catalog_modules=list(MODULES),
                threads=1,
                subcommand=subcommand,
            )
        )
        if asked is not None:
            run.ask(asked)
        return run, [Fork("workers.trainer.main", "train", str(run.path), rank) for rank in range(ranks)]

    return begin


def files(run: RunDir) -> set[str]:
    return {path.name for path in run.artifacts.iterdir()} - {"config.yaml"}


def lines(run: RunDir, name: str = "predictions.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.artifacts / name).read_text().splitlines()]


def loaded(run: RunDir, name: str = "predictions.pt") -> Any:
    return torch.load(run.artifacts / name, weights_only=True)


def test_predictions_of_several_loaders_are_a_list_for_each(start: Start) -> None:
    run = ended(start("predict", loaders=2))
    assert run.read_outcome() == Outcome("succeeded"), run.log_tail(3000)
    first, second = loaded(run)
    assert [batch[:, 0].tolist() for batch in first] == [[0, 2, 4], [6, 8, 10], [12]]
    assert torch.cat(second)[:, 0].tolist() == [2.0 * number for number in range(8)]
    places = [(line["dataloader"], line["batch"], line["index"]) for line in lines(run)]
    assert places == [(loader, index // 3, index) for loader in (0, 1) for index in range(7 + loader)]
    progress = run.read_progress()
    assert progress is not None
    assert (progress.batches, progress.max_batches, progress.max_steps) == (6, 6, None)
    assert [record["phase"] for record in records(run, "phase")] == ["preparing", "predicting", "saving"]


def test_each_rank_leaves_the_predictions_of_its_samples(start: Start) -> None:
    run = ended(start("predict", ranks=2))
    assert run.read_outcome() == Outcome("succeeded"), run.log_tail(3000)
    told: dict[int, float] = {}
    for rank in (0, 1):
        batches = loaded(run, f"predictions-rank{rank}.pt")
        indices = [index for batch in loaded(run, f"batch_indices-rank{rank}.pt") for index in batch]
        told |= dict(zip(indices, torch.cat(batches)[:, 0].tolist(), strict=True))
        assert [line["index"] for line in lines(run, f"predictions-rank{rank}.jsonl")] == indices
    assert told == {number: 2.0 * number for number in range(7)}, "each sample once"


@pytest.mark.parametrize(
    ("form", "first"),
    [
        ("dict", {"value": 0.0, "name": "0", "odd": ["NaN"]}),
        ("batch", {"indices": [0, 1, 2], "prediction": 6.0}),
        ("view", [0.0]),
    ],
)
def test_other_forms_are_told_as_they_are(start: Start, form: str, first: Any) -> None:
    run = ended(start("predict", form=form))
    assert run.read_outcome() == Outcome("succeeded"), run.log_tail(3000)
    line = lines(run)[0]
    assert line == {"dataloader": 0, "batch": 0} | (first if form == "batch" else {"index": 0, "prediction": first})
    assert len(loaded(run)) == 3
    assert (run.artifacts / "predictions.pt").stat().st_size < 10_000, "of a view its own part alone is kept"


@pytest.mark.parametrize(
    ("keys", "form", "left"),
    [
        ({"return_predictions": False}, "tensor", set()),
        ({}, "nothing", set()),
        ({"return_predictions": True}, "large", {"predictions.pt"}),
    ],
)
def test_nothing_is_left_where_nothing_is_returned_and_no_json_of_what_is_large(
    start: Start, keys: dict[str, Any], form: str, left: set[str]
) -> None:
    run = ended(start("predict", form=form, keys=keys))
    assert run.read_outcome() == Outcome("succeeded"), run.log_tail(3000)
    assert files(run) == left
    assert len(events(run, "predictions_not_json")) == (form == "large")


def test_a_prediction_that_would_load_only_by_running_code_fails_at_the_first_batch(start: Start) -> None:
    outcome = ended(start("predict", form="object")).read_outcome()
    assert outcome is not None
    assert (outcome.status, outcome.code) == ("failed", "user_error")
    assert "a value of type builtins.object" in (outcome.message or "")
    assert "return_predictions: false" in (outcome.message or "")


def test_an_evaluation_stops_between_two_batches_and_leaves_no_half_of_its_predictions(start: Start) -> None:
    run, forks = start("predict", step_seconds=0.05, count=1000)
    wait_until(lambda: (told := run.read_progress()) and told.batches > 0, what="it predicts", deadline_seconds=60)
    run.ask(Control(stop=True))
    ended((run, forks))
    assert run.read_outcome() == Outcome("stopped")
    assert files(run) == set()
    progress = run.read_progress()
    assert progress is not None
    assert progress.batches < 300


@pytest.mark.parametrize("ranks", [1, 2])
def test_one_that_was_asked_to_stop_before_it_began_does_not_begin(start: Start, ranks: int) -> None:
    run = ended(start("test", ranks=ranks, asked=Control(stop=True)))
    assert run.read_outcome() == Outcome("stopped")
    assert records(run, "metrics") == []
