"""Validating, testing and predicting with what another job has trained."""

import io
import json
from typing import Any

import pytest
import torch

from models.data import Digits
from tests.e2e.conftest import User
from tests.e2e.lightning.conftest import lesson
from tests.stack import Stack


@pytest.fixture(scope="module")
def trained(school: Stack) -> dict[str, Any]:
    """A job that has trained the model of these lessons."""
    user = User(school)
    job = user.ended(user.submit(lesson("structure")))
    assert job["status"] == "succeeded", job["reason"]
    return job


def with_checkpoint(name: str, checkpoint: str) -> str:
    return lesson(name).replace("ckpt_path: null", f"ckpt_path: {checkpoint}")


def last_point(user: User, job_id: str, metric: str) -> tuple[int, int, float]:
    point = user.client.get(f"/v1/jobs/{job_id}/metrics/{metric}").json()["points"][-1]
    return point["step"], point["epoch"], point["value"]


def test_a_checkpoint_validates_to_what_its_training_had_at_that_step(pupil: User, trained: dict[str, Any]) -> None:
    job_id = pupil.submit(with_checkpoint("validate", f"{trained['id']}/last"))
    job = pupil.ended(job_id)
    assert job["status"] == "succeeded", job["reason"]
    assert job["start_checkpoint_id"] == trained["last_checkpoint_id"] == job["config"]["ckpt_path"]
    assert job["progress"]["fraction"] == 1.0
    for name in ("val_loss", "val_acc"):
        assert last_point(pupil, job_id, name) == last_point(pupil, trained["id"], name)


def test_a_test_has_metrics_and_phases_of_its_own(pupil: User, trained: dict[str, Any]) -> None:
    job = pupil.ended(pupil.submit(with_checkpoint("test", f"{trained['id']}/best")))
    assert (job["status"], job["subcommand"]) == ("succeeded", "test"), job["reason"]
    assert set(job["metrics"]) == {"test_loss", "test_acc"}
    assert job["attempts"][0]["resume"] is None
    assert last_point(pupil, job["id"], "test_acc")[:2] == last_point(pupil, trained["id"], "val_acc")[:2]


def test_a_paused_test_begins_anew_and_says_so(pupil: User) -> None:
    slow = {"class_path": "predicting.Predicting", "init_args": {"count": 60, "step_seconds": 0.02}}
    job_id = pupil.submit({"model": slow, "trainer": {"accelerator": "cpu"}}, subcommand="test")
    pupil.until(job_id, lambda job: bool(job["progress"]), "it tests")
    pupil.client.post(f"/v1/jobs/{job_id}/pause")
    paused = pupil.until(job_id, lambda job: job["status"] == "paused", "it is paused", deadline_seconds=10)
    assert 0 < paused["progress"]["fraction"] < 1
    pupil.client.post(f"/v1/jobs/{job_id}/resume")
    job = pupil.ended(job_id)
    assert (job["status"], job["metrics"]) == ("succeeded", {"mean": 29.5})
    assert [(one["outcome"], one["resume"], one["steps_lost"]) for one in job["attempts"]] == [
        ("paused", None, None),
        ("succeeded", "restart", 0),
    ]


def test_predictions_are_files_that_torch_and_others_read(pupil: User, trained: dict[str, Any]) -> None:
    job_id = pupil.submit(with_checkpoint("predict", f"{trained['id']}/best"))
    job = pupil.ended(job_id)
    assert job["status"] == "succeeded", job["reason"]
    path = f"/v1/jobs/{job_id}/artifacts"
    assert {one["name"] for one in pupil.client.get(path).json()["data"]} == {
        "config.yaml", "predictions.jsonl", "predictions.pt",
    }  # fmt: skip
    batches = torch.load(io.BytesIO(pupil.client.get(f"{path}/predictions.pt").content), weights_only=True)
    lines = [json.loads(line) for line in pupil.client.get(f"{path}/predictions.jsonl").text.splitlines()]
    assert [len(batch) for batch in batches] == [128, 128, 103]
    assert [line["index"] for line in lines] == list(range(359))
    assert torch.equal(torch.tensor([line["prediction"] for line in lines]), torch.cat(batches))
    tested = pupil.ended(pupil.submit(with_checkpoint("test", f"{trained['id']}/best")))
    data = Digits()
    data.prepare_data()
    data.setup("predict")
    right = torch.cat(batches).argmax(dim=1) == data.test_set.tensors[1]
    assert tested["metrics"]["test_acc"] == pytest.approx(right.float().mean().item(), abs=1e-6)
