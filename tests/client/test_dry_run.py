"""A dry run from the client's side."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from lightyard import Client, WaitTimeoutError

Run = Callable[..., Result]

WAITING = {
    "job_id": "job_1", "status": "queued", "ok": None, "phases": [], "warnings": [], "reason": None, "summary": None,
    "seconds": None, "log": "", "waiting": {"position": 0, "reason": "no worker is up"},
}  # fmt: skip
FOUND = WAITING | {
    "status": "failed",
    "ok": False,
    "phases": [
        {"phase": "training", "ok": True, "batches": 1, "seconds": 0.5, "metrics": {"loss": "NaN"}},
        {"phase": "validating", "ok": False, "batches": 0, "seconds": None, "metrics": {}},
    ],
    "warnings": ["EarlyStopping monitors 'x', which was not logged"],
    "reason": {"code": "user_error", "message": "ValueError: odd", "traceback": None},
    "seconds": 2.0,
    "waiting": None,
}


def answers(yard: Any, first: dict[str, Any], then: dict[str, Any]) -> None:
    """What the POST answers, and what the GET that follows it does."""
    yard.mishaps.append((202 if first["ok"] is None else 200, {"Content-Type": "application/json"}, json.dumps(first)))
    yard.documents["/v1/jobs/job_1/dry_run"] = then


def test_a_dry_run_is_waited_for_and_told(client: Client, yard: Any) -> None:
    answers(yard, WAITING, FOUND)
    seen = []
    found = client.dry_run({"model": {"class_path": "A"}}, on_wait=seen.append)
    assert (found.ok, found.status, found.seconds) == (False, "failed", 2.0)
    assert [(one.phase, one.ok, one.batches) for one in found.phases] == [
        ("training", True, 1),
        ("validating", False, 0),
    ]
    assert found.reason is not None
    assert [one.waiting for one in seen] == ["no worker is up"]
    post, get = yard.requests
    assert (post.query, get.query) == ({"dry_run": "true", "wait": "30"}, {"wait": "30"})
    assert post.headers["Idempotency-Key"]


def test_a_dry_run_that_takes_too_long_is_given_up(client: Client, yard: Any) -> None:
    answers(yard, WAITING, WAITING)
    with pytest.raises(WaitTimeoutError, match="job_1 is still queued"):
        client.dry_run({"model": {"class_path": "A"}}, timeout_seconds=0.2)


def test_submit_with_dry_run_tells_each_phase_and_exits_as_it_ended(lightyard: Run, yard: Any) -> None:
    Path("job.yaml").write_text("model: {class_path: A}\n")
    answers(yard, FOUND, FOUND)
    result = lightyard("submit", "job.yaml", "--dry-run")
    assert result.exit_code == 1
    assert "training" in result.stdout
    assert "user_error: ValueError: odd" in result.stdout
    assert "warning: EarlyStopping monitors" in result.stdout
    assert yard.jobs == {}
    answers(yard, FOUND | {"status": "succeeded", "ok": True, "reason": None}, FOUND)
    assert lightyard("submit", "job.yaml", "--dry-run", "--json").exit_code == 0
