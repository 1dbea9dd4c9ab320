"""Runs that are made to find out what is wrong with a model."""

import json
from typing import Any

from lightyard import Client
from tests.e2e.conftest import User
from tests.e2e.lightning.conftest import lesson


def artifact_names(user: User, job_id: str) -> set[str]:
    listed = user.client.get(f"/v1/jobs/{job_id}/artifacts", params={"limit": 200}).json()["data"]
    return {one["name"] for one in listed}


def dry_run(user: User, config: dict[str, Any] | str) -> tuple[int, dict[str, Any]]:
    text = config if isinstance(config, str) else json.dumps(config)
    answer = user.client.post(
        "/v1/jobs", params={"dry_run": True}, content=text, headers={"Content-Type": "application/yaml"}
    )
    return answer.status_code, answer.json()


def test_a_fast_dev_run_says_what_it_tried_and_leaves_neither_metrics_nor_checkpoints(pupil: User) -> None:
    job_id = pupil.submit(lesson("fast_dev_run"))
    job = pupil.ended(job_id)
    assert (job["status"], job["metrics"]) == ("succeeded", {}), job["reason"]
    assert job["progress"]["global_step"] == 1
    assert pupil.client.get(f"/v1/jobs/{job_id}/checkpoints").json()["data"] == []
    (tried,) = [event["data"] for event in pupil.events(job_id) if event["type"] == "tried"]
    assert [(one["phase"], one["batches"]) for one in tried["phases"]] == [("training", 1), ("validating", 1)]
    assert {"train_loss", "val_loss"} <= set(tried["phases"][0]["metrics"])


def test_a_model_learns_two_batches_by_heart_and_the_profilers_report_is_an_artifact(pupil: User) -> None:
    job_id = pupil.submit(lesson("overfit"))
    job = pupil.ended(job_id)
    assert job["status"] == "succeeded", job["reason"]
    assert job["progress"]["global_step"] == 10
    points = pupil.client.get(f"/v1/jobs/{job_id}/metrics/train_loss_epoch").json()["points"]
    assert points[-1]["value"] < points[0]["value"]
    report = pupil.client.get(f"/v1/jobs/{job_id}/artifacts/fit-profile.txt").text
    assert "FIT Profiler Report" in report
    assert "run_training_batch" in report


def test_the_traces_of_the_pytorch_profiler_are_chrome_traces(pupil: User) -> None:
    job_id = pupil.submit(lesson("profile"))
    job = pupil.ended(job_id)
    assert job["status"] == "succeeded", job["reason"]
    assert job["progress"]["global_step"] == 8
    for step in ("training_step", "validation_step"):
        answer = pupil.client.get(f"/v1/jobs/{job_id}/artifacts/fit-profile-{step}.trace.json")
        assert answer.headers["Content-Type"] == "application/json"
        spans = [event for event in answer.json()["traceEvents"] if event["ph"] == "X"]
        assert any(step in span["name"] and span["dur"] >= 0 and span["ts"] >= 0 for span in spans)
        assert any(span["name"].startswith("aten::") for span in spans)


def test_a_dry_run_tries_a_batch_of_everything_and_keeps_no_checkpoint(pupil: User) -> None:
    with Client(pupil.stack.address, pupil.stack.key) as client:
        found = client.dry_run(lesson("structure").encode(), timeout_seconds=60).raw
    assert found["ok"], found["reason"]
    assert [(one["phase"], one["batches"], one["ok"]) for one in found["phases"]] == [
        ("training", 1, True), ("validating", 1, True), ("testing", 1, True), ("predicting", 1, True),
    ]  # fmt: skip
    assert "test_acc" in found["phases"][2]["metrics"]
    assert found["summary"]["parameters"] > 0
    assert 0 < found["seconds"] < 60
    assert "max_steps=1" in found["log"]
    job_id = found["job_id"]
    assert pupil.job(job_id)["dry_run"]
    assert job_id not in [one["id"] for one in pupil.client.get("/v1/jobs").json()["data"]]
    assert pupil.client.get(f"/v1/jobs/{job_id}/checkpoints").json()["data"] == []


def test_a_dry_run_names_what_would_fail_hours_later(pupil: User) -> None:
    stopping = {"class_path": "EarlyStopping", "init_args": {"monitor": "val_los"}}
    config = {
        "model": {"class_path": "lessons.logging.Diary"},
        "trainer": {"accelerator": "cpu", "callbacks": [stopping], "enable_model_summary": False},
    }
    status, found = dry_run(pupil, config)
    assert (status, found["ok"]) == (200, True), found["reason"]
    (warning,) = found["warnings"]
    assert "EarlyStopping monitors 'val_los'" in warning
    assert "val_mse" in warning

    status, found = dry_run(pupil, pupil.net("raise"))
    assert (status, found["ok"], found["reason"]["code"]) == (200, False, "user_error")
    assert [(one["phase"], one["ok"]) for one in found["phases"]] == [("training", False)]
    assert "Traceback" in found["log"]
