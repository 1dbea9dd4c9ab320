"""A loop on Fabric as a job: the very file that runs by hand, paused, gone on with, cancelled, started from another."""

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.e2e.conftest import User
from tests.e2e.lightning.conftest import EXAMPLES, LESSONS, lesson
from tests.waiting import wait_until
from tests.workers.trainer.runs import differences

EPOCHS, STEPS_PER_EPOCH = 6, 36


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder where `examples/fabric.py` has run the lesson, on one thread, as trainers that share the cores do."""
    folder = tmp_path_factory.mktemp("by-hand")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["fabric.py", "--config", str(LESSONS / "fabric.yaml")])
        runpy.run_path(str(EXAMPLES / "fabric.py"), run_name="__main__")
    torch.set_num_threads(threads)
    return folder


def checkpoints(user: User, job_id: str) -> dict[str, dict[str, Any]]:
    """A job's checkpoints by their kind; of the loop's own, the best and the last by what they are."""
    listed = user.client.get(f"/v1/jobs/{job_id}/checkpoints", params={"limit": 100}).json()["data"]
    names = {one["id"]: "best.ckpt" if one["is_best"] else "last.ckpt" for one in listed}
    return {names[one["id"]] if one["kind"] == "model_checkpoint" else one["kind"]: one for one in listed}


def test_a_loop_that_was_paused_and_resumed_ends_with_the_weights_of_the_run_by_hand(
    pupil: User, by_hand: Path, tmp_path: Path
) -> None:
    job_id = pupil.submit(lesson("fabric"))
    pupil.until(job_id, lambda job: job["status"] == "running", "it runs")
    assert pupil.client.post(f"/v1/jobs/{job_id}/pause").status_code == 202
    paused = pupil.until(job_id, lambda job: job["status"] == "paused", "it is paused")
    assert 0 < paused["progress"]["global_step"] < paused["progress"]["max_steps"] == EPOCHS * STEPS_PER_EPOCH
    pupil.client.post(f"/v1/jobs/{job_id}/resume")
    job = pupil.ended(job_id)
    assert job["status"] == "succeeded", job["reason"]
    assert [(one["outcome"], one["resume"]) for one in job["attempts"]] == [("paused", None), ("succeeded", "exact")]
    assert (job["progress"]["epoch"], job["progress"]["fraction"]) == (EPOCHS - 1, 1.0)

    assert job["summary"]["optimizers"] == ["AdamW"]
    assert job["summary"]["estimated_steps"] == EPOCHS * STEPS_PER_EPOCH

    points = pupil.client.get(f"/v1/jobs/{job_id}/metrics/train_loss").json()["points"]
    assert [point["step"] for point in points] == list(range(EPOCHS * STEPS_PER_EPOCH))
    accuracies = pupil.client.get(f"/v1/jobs/{job_id}/metrics/val_acc").json()["points"]
    assert [(point["step"] + 1) / STEPS_PER_EPOCH for point in accuracies] == [1, 2, 3, 4, 5, 6]
    assert max(point["value"] for point in accuracies) > 0.96

    saved = checkpoints(pupil, job_id)
    assert (saved["last.ckpt"]["step"], saved["last.ckpt"]["is_last"]) == (EPOCHS * STEPS_PER_EPOCH, True)
    assert saved["last.ckpt"]["metrics"]["val_acc"] == accuracies[-1]["value"]
    for name in ("last.ckpt", "best.ckpt"):
        theirs = torch.load(pupil.download(saved[name]["id"], tmp_path / name), weights_only=True)
        mine = torch.load(by_hand / name, weights_only=True)
        assert differences(mine, theirs, ("", "")) == []


def test_a_loop_saves_on_request_and_leaves_its_last_state_when_it_is_cancelled(pupil: User, tmp_path: Path) -> None:
    config = yaml.safe_load(lesson("fabric"))
    config["model"]["init_args"]["epochs"] = 500
    job_id = pupil.submit(config)
    pupil.until(job_id, lambda job: bool(job["progress"]), "it trains")
    pupil.client.post(f"/v1/jobs/{job_id}/checkpoints")
    wait_until(lambda: "requested" in checkpoints(pupil, job_id), what="it has saved", deadline_seconds=30)
    pupil.client.post(f"/v1/jobs/{job_id}/cancel")
    job = pupil.ended(job_id)
    assert job["status"] == "cancelled"
    asked, last = (checkpoints(pupil, job_id)[kind] for kind in ("requested", "stop"))
    loaded = torch.load(pupil.download(asked["id"], tmp_path / "requested.ckpt"), weights_only=True)
    assert set(loaded) == {"model", "optimizer", "epoch", "batch", "global_step", "best"}
    assert loaded["global_step"] == asked["step"] <= last["step"] == job["progress"]["global_step"]


def test_a_loop_starts_from_the_checkpoint_of_another_job(pupil: User) -> None:
    config = yaml.safe_load(lesson("fabric"))
    config["model"]["init_args"]["epochs"] = 1
    first = pupil.ended(pupil.submit(config))
    config["model"]["init_args"]["epochs"] = 2
    config["ckpt_path"] = f"{first['id']}/last"
    job = pupil.ended(pupil.submit(config))
    assert job["status"] == "succeeded", job["reason"]
    assert pupil.until_event(job["id"], "resumed")["data"]["reason"] == "the checkpoint has no random numbers"
    points = pupil.client.get(f"/v1/jobs/{job['id']}/metrics/train_loss").json()["points"]
    assert [point["step"] for point in points] == list(range(STEPS_PER_EPOCH, 2 * STEPS_PER_EPOCH))


def test_the_catalogue_has_loops_as_a_kind_of_their_own(pupil: User) -> None:
    listed = pupil.client.get("/v1/catalog", params={"kind": "loop"}).json()["data"]
    assert "models.loops.ImageClassifierLoop" in [one["class_path"] for one in listed]
