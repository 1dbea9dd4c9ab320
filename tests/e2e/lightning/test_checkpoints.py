"""Checkpoints: those that a run saves, and jobs that start from one."""

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.e2e.conftest import User
from tests.e2e.lightning.conftest import EXAMPLES, lesson
from tests.stack import Stack
from tests.waiting import wait_until

STEPS = 40
FROZEN = {"model": {"init_args": {"lr": 1e-30}}, "trainer": {"limit_train_batches": 1, "max_epochs": 1}}
"""So small a step changes no weight."""


@pytest.fixture(scope="module")
def trained(school: Stack) -> dict[str, Any]:
    """The job of the lesson on checkpoints."""
    user = User(school)
    job = user.ended(user.submit(lesson("checkpoints")))
    assert job["status"] == "succeeded", job["reason"]
    return job


def retried(user: User, job: dict[str, Any], start: str | None = None, **body: Any) -> dict[str, Any]:
    """A retry that has ended."""
    answer = user.client.post(f"/v1/jobs/{job['id']}/retry", params={"from": start} if start else None, json=body)
    assert answer.status_code == 201, answer.text
    return user.ended(answer.json()["id"])


def weights(user: User, checkpoint_id: str, folder: Path) -> dict[str, torch.Tensor]:
    loaded = torch.load(user.download(checkpoint_id, folder / f"{checkpoint_id}.ckpt"), weights_only=True)
    state: dict[str, torch.Tensor] = loaded["state_dict"]
    return state


def test_the_best_the_last_every_nth_and_those_that_the_module_saves_are_kept(
    pupil: User, trained: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = pupil.client.get(f"/v1/jobs/{trained['id']}/checkpoints").json()["data"]
    kinds = {one["name"]: one["kind"] for one in listed}
    best = [one for one in listed if one["name"].startswith("epoch=")]
    assert len(best) == 2, "of three epochs the best two"
    assert max(best, key=lambda one: one["metrics"]["val_acc"])["id"] == trained["best_checkpoint_id"]
    assert kinds["first/epoch.ckpt"] == "manual"
    assert {"last.ckpt", "step=20.ckpt"} <= kinds.keys()
    assert {kinds[name] for name in kinds if name != "first/epoch.ckpt"} == {"model_checkpoint"}
    file = pupil.download(trained["best_checkpoint_id"], tmp_path / "best.ckpt")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    model = importlib.import_module("lessons.saving").SavesItself.load_from_checkpoint(file, weights_only=True)
    assert model.hparams["width"] == 8


def test_a_retry_from_a_checkpoint_goes_on_with_all_of_the_training_and_may_train_for_longer(
    pupil: User, trained: dict[str, Any], tmp_path: Path
) -> None:
    longer = {"trainer": {"max_epochs": 4}, "model": {"init_args": {"lr": 0.5}}}
    job = retried(pupil, trained, "last", config=longer)
    assert job["status"] == "succeeded", job["reason"]
    (attempt,) = job["attempts"]
    assert attempt["resumed_from"] == job["start_checkpoint_id"] == trained["last_checkpoint_id"]
    assert (attempt["resume"], attempt["steps_lost"]) == ("epoch", 0)
    assert job["parent_id"] == trained["id"]
    points = pupil.client.get(f"/v1/jobs/{job['id']}/metrics/train_loss").json()["points"]
    before = trained["progress"]["global_step"]
    assert [point["step"] for point in points] == list(range(before, before + before // 3))
    assert {point["epoch"] for point in points} == {3}
    told = pupil.until_event(job["id"], "learning_rate_restored")
    assert told["data"] == {"configured": [0.5], "restored": [0.002]}, "as with ckpt_path by hand"
    same = retried(pupil, trained, "last")
    assert same["status"] == "succeeded"
    assert "nothing_trained" in pupil.event_types(same["id"])


def test_a_retry_from_where_a_job_was_stopped_goes_on_exactly(pupil: User, tmp_path: Path) -> None:
    config = pupil.net(batches=STEPS, trainer={"max_steps": STEPS, "log_every_n_steps": 1})
    whole = pupil.ended(pupil.submit(config))
    once = tmp_path / "once"
    waiting = {"once": str(once), "at_step": STEPS // 2, "batches": STEPS}
    stopped_id = pupil.submit(config | {"model": {"class_path": "misbehaving.Patient", "init_args": waiting}})
    wait_until(once.exists, what="it waits in its middle", deadline_seconds=60)
    pupil.client.post(f"/v1/jobs/{stopped_id}/cancel")
    stopped = pupil.ended(stopped_id)
    job = retried(pupil, stopped, "last")
    assert job["status"] == "succeeded", job["reason"]
    (attempt,) = job["attempts"]
    assert (attempt["resume"], attempt["resumed_from"]) == ("exact", stopped["last_checkpoint_id"])

    def losses(job: dict[str, Any]) -> dict[int, float]:
        told = pupil.client.get(f"/v1/jobs/{job['id']}/metrics/loss").json()["points"]
        return {point["step"]: point["value"] for point in told}

    assert losses(stopped) | losses(job) == losses(whole)
    assert min(losses(job)) == max(losses(stopped)) + 1 == STEPS // 2 + 1


def test_weights_alone_start_a_new_training_with_hyperparameters_of_its_own(
    pupil: User, trained: dict[str, Any], tmp_path: Path
) -> None:
    best = f"{trained['id']}/best"
    job = pupil.ended(pupil.submit(lesson("fine_tune").replace("weights_from: null", f"weights_from: {best}")))
    assert job["status"] == "succeeded", job["reason"]
    assert (job["weights_checkpoint_id"], job["start_checkpoint_id"]) == (trained["best_checkpoint_id"], None)
    assert (job["attempts"][0]["resumed_from"], job["progress"]["epoch"]) == (None, 0)
    frozen = retried(pupil, job, config=FROZEN)
    theirs = weights(pupil, trained["best_checkpoint_id"], tmp_path)
    ours = weights(pupil, frozen["last_checkpoint_id"], tmp_path)
    learned = [name for name in theirs if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))]
    assert learned
    assert all(torch.equal(theirs[name], ours[name]) for name in learned)
    wider = retried(pupil, job, config={"model": {"init_args": {"width": 16}}})
    assert (wider["status"], wider["reason"]["code"]) == ("failed", "user_error")
    assert (
        "features.0.0.weight ((8, 1, 3, 3) in the checkpoint, (16, 1, 3, 3) in the model)" in wider["reason"]["message"]
    )


def test_a_job_whose_checkpoint_the_store_has_lost_fails_by_a_reason_of_its_own(
    pupil: User, trained: dict[str, Any]
) -> None:
    lost = f"{trained['id']}/checkpoints/{trained['last_checkpoint_id']}.ckpt"
    (pupil.stack.home / "store" / "jobs" / lost).write_bytes(b"damaged")
    job = retried(pupil, trained, "last")
    assert (job["status"], job["reason"]["code"], job["attempt"]) == ("failed", "checkpoint_lost", 1)
    assert trained["last_checkpoint_id"] in job["reason"]["message"]


def test_hyperparameters_for_which_a_checkpoint_is_unsafe_are_named_at_the_first_save(pupil: User) -> None:
    data = {"class_path": "models.data.Digits"}
    flags = {"max_epochs": 1, "limit_train_batches": 1, "limit_val_batches": 0, "accelerator": "cpu"}
    config = {"model": {"class_path": "lessons.saving.NamesItsFolder"}, "data": data, "trainer": flags}
    job = pupil.ended(pupil.submit(config))
    told = pupil.until_event(job["id"], "checkpoint_not_loadable")
    assert told["data"]["hyperparameters"] == ["folder"]
    refused = retried(pupil, job, "last", config={"trainer": {"max_epochs": 2}})
    assert (refused["status"], refused["reason"]["code"]) == ("failed", "user_error")
    assert "without running code" in refused["reason"]["message"]
