"""What a run says of itself is taken only in the form in which a trainer of ours says it."""

import json
from pathlib import Path
from typing import Any

import pytest

from workers.records import Described, RecordError, read_record
from workers.rundir import Order, RunDir, write_whole
from workers.statements import HYPERPARAMETERS_BYTES, StatementError, read_reason_data, read_summary

WHOLE: dict[str, Any] = {
    "parameters": 5,
    "batch_size": None,
    "accumulation": [{"from_epoch": 0, "accumulate_grad_batches": 1, "effective_batch_size": None}],
    "precision": "32-true",
    "automatic_optimization": True,
    "optimizers": ["SGD"],
    "hyperparameters": {"model": {"lr": 0.1, "name": "a\0b"}},
}


def deep(levels: int) -> Any:
    return {"a": deep(levels - 1)} if levels else 1


def test_a_summary_is_taken_as_it_is() -> None:
    line = json.dumps({"is": "summary", "at": 1.0, "summary": WHOLE}).encode()
    record = read_record(line)
    assert isinstance(record, Described)
    assert record.summary == WHOLE | {"hyperparameters": {"model": {"lr": 0.1, "name": "a�b"}}}


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        {"parameters": -1},
        {"parameters": True},
        {"parameters": 2**63},
        {"batch_size": "4"},
        {"surprise": 1},
        {"precision": "x" * 1000},
        {"precision": None},
        {"automatic_optimization": 1},
        {"optimizers": ["SGD"] * 1000},
        {"optimizers": [3]},
        {"accumulation": [{"from_epoch": 0, "more": 1}]},
        {"hyperparameters": {"lr": 0.1}},
        {"hyperparameters": {"model": {"x": "y" * HYPERPARAMETERS_BYTES}}},
        {"hyperparameters": {"model": deep(50)}},
    ],
)
def test_any_other_is_refused(wrong: Any) -> None:
    with pytest.raises(StatementError):
        read_summary(wrong)
    with pytest.raises(RecordError):
        read_record(json.dumps({"is": "summary", "at": 1.0, "summary": wrong}).encode())


def test_a_reasons_numbers_are_written_as_json_can_hold_them() -> None:
    said = {"stage": "training", "batch": 3, "loss": "-inf", "score": "nan", "best_score": 0.5, "known_metrics": ["a"]}
    assert read_reason_data(said) == said | {"loss": "-Infinity", "score": "NaN"}
    assert read_reason_data(None) is None


@pytest.mark.parametrize("wrong", [{"loss": "much"}, {"loss": []}, {"known_metrics": "a"}, {"more": 1}, "text"])
def test_an_outcome_with_other_data_counts_without_them(tmp_path: Path, wrong: Any) -> None:
    with pytest.raises(StatementError):
        read_reason_data(wrong)
    run = RunDir(tmp_path / "attempt-1")
    run.create(Order(job_id="job_1", attempt=1, config={}, devices=["cpu:0"], catalog_modules=[]))
    said = {"status": "failed", "code": "diverged", "message": "m", "traceback": None}
    write_whole(run.outcome, said | {"data": wrong})
    outcome = run.read_outcome()
    assert outcome is not None
    assert (outcome.code, outcome.data) == ("diverged", None)
    write_whole(run.outcome, said | {"data": {"global_step": 4}})
    assert run.read_outcome().data == {"global_step": 4}  # type: ignore[union-attr]
