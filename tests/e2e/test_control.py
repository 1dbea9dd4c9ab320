"""Stopping a run and going on: by request, by a worker's shutdown, for a job of higher priority. No step is lost."""

from pathlib import Path
from typing import Any

import torch

from tests.e2e.conftest import User

STEPS = 120


def long_run(user: User) -> dict[str, Any]:
    flags = {"max_steps": STEPS, "log_every_n_steps": 1, "enable_checkpointing": True}
    return user.net(step_seconds=0.02, batches=STEPS, trainer=flags)


def is_whole(user: User, job_id: str) -> bool:
    points = user.client.get(f"/v1/jobs/{job_id}/metrics/loss").json()["points"]
    return [point["step"] for point in points] == list(range(STEPS))


def test_a_paused_job_frees_its_device_and_goes_on_from_where_it_stopped(user: User) -> None:
    job_id = user.submit(long_run(user))
    user.until(job_id, lambda job: bool(job["progress"]), "it trains")
    asked = user.client.post(f"/v1/jobs/{job_id}/pause")
    assert (asked.status_code, asked.json()["status"]) == (202, "running")
    assert asked.json()["pause_requested_at"]
    paused = user.until(job_id, lambda job: job["status"] == "paused", "it is paused", deadline_seconds=10)
    assert (paused["pause_requested_at"], paused["phase"], paused["reason"]) == (None, None, None)
    assert user.event_types(job_id)[-2:] == ["stopped", "paused"]
    (worker,) = [one for one in user.client.get("/v1/workers").json()["data"] if one["status"] == "online"]
    assert not any(device["busy"] for device in worker["devices"])
    resumed = user.client.post(f"/v1/jobs/{job_id}/resume")
    assert (resumed.status_code, resumed.json()["status"]) == (202, "queued")
    job = user.ended(job_id)
    assert job["status"] == "succeeded", job["reason"]
    assert [(one["outcome"], one["resume"], one["steps_lost"]) for one in job["attempts"]] == [
        ("paused", None, None),
        ("succeeded", "exact", 0),
    ]
    assert is_whole(user, job_id)


def test_a_checkpoint_saved_on_request_can_be_downloaded_while_the_job_goes_on(user: User, tmp_path: Path) -> None:
    job_id = user.submit(long_run(user))
    user.until(job_id, lambda job: bool(job["progress"]), "it trains")
    asked = user.client.post(f"/v1/jobs/{job_id}/checkpoints")
    assert (asked.status_code, bool(asked.json()["checkpoint_requested_at"])) == (202, True)
    job = user.until(job_id, lambda job: not job["checkpoint_requested_at"], "it has saved", deadline_seconds=10)
    listed = user.client.get(f"/v1/jobs/{job_id}/checkpoints").json()["data"]
    (saved,) = [one for one in listed if one["kind"] == "requested"]
    loaded = torch.load(user.download(saved["id"], tmp_path / "saved.ckpt"), weights_only=True)
    assert 0 < loaded["global_step"] == saved["step"] <= STEPS
    assert "state_dict" in loaded
    job = user.ended(job_id)
    assert (job["status"], job["attempt"]) == ("succeeded", 1)


def test_a_cancelled_job_keeps_the_checkpoint_of_its_last_step(user: User) -> None:
    job_id = user.submit(user.net(step_seconds=0.02, batches=500, trainer={"max_steps": 5000}))
    user.until(job_id, lambda job: bool(job["progress"]), "it trains")
    user.client.post(f"/v1/jobs/{job_id}/cancel")
    job = user.ended(job_id)
    (last,) = [one for one in user.client.get(f"/v1/jobs/{job_id}/checkpoints").json()["data"] if one["kind"] == "stop"]
    assert job["last_checkpoint_id"] == last["id"]
    assert last["step"] == job["progress"]["global_step"]


def test_a_worker_told_to_stop_saves_first_and_no_step_is_trained_twice(user: User) -> None:
    job_id = user.submit(long_run(user), limits={"max_attempts": 1})
    user.until(job_id, lambda job: bool(job["progress"]), "it trains")
    assert user.stack.terminate("worker-1") == 0
    job = user.job(job_id)
    assert (job["status"], job["attempts"][0]["outcome"]) == ("queued", "preempted")
    user.stack.start_worker()
    job = user.ended(job_id, deadline_seconds=90)
    assert job["status"] == "succeeded", job["reason"]
    assert (job["attempts"][1]["resume"], job["attempts"][1]["steps_lost"]) == ("exact", 0)
    assert is_whole(user, job_id)


def test_a_job_of_higher_priority_takes_the_device_of_a_lower_one_which_goes_on_later(user: User) -> None:
    low = [user.submit(long_run(user)) for _ in range(2)]
    for job_id in low:
        user.until(job_id, lambda job: bool(job["progress"]), "it trains")
    urgent = user.ended(user.submit(user.net(), priority=10))
    assert urgent["status"] == "succeeded"
    ended = [user.ended(job_id) for job_id in low]
    assert [job["status"] for job in ended] == ["succeeded", "succeeded"]
    outcomes = sorted([one["outcome"] for one in job["attempts"]] for job in ended)
    assert outcomes == [["preempted", "succeeded"], ["succeeded"]], "one was enough"
    assert all(is_whole(user, job_id) for job_id in low)
