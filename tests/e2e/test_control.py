"""Stopping a run and going on: by request, or for a job of higher priority. No step is lost."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.e2e.conftest import User
from tests.waiting import wait_until

# That a run stops and goes on has nothing to do with the database; test_failures.py and lightning/ stop some on SQLite.
pytestmark = pytest.mark.parametrize("stack", ["production"], indirect=True)

STEPS, WAITS_AT = 40, 20


def waiting_run(user: User, once: Path) -> dict[str, Any]:
    """The config of a run that waits in its middle, where there is a file `once` by then."""
    arguments = {"once": str(once), "at_step": WAITS_AT, "batches": STEPS}
    flags = {"max_steps": STEPS, "log_every_n_steps": 1, "enable_checkpointing": True}
    return user.net(trainer=flags) | {"model": {"class_path": "misbehaving.Patient", "init_args": arguments}}


def until_they_wait(*once: Path) -> None:
    """Return when all of those runs do."""
    wait_until(lambda: all(one.exists() for one in once), what="they wait in their middle", deadline_seconds=60)


def is_whole(user: User, job_id: str) -> bool:
    points = user.client.get(f"/v1/jobs/{job_id}/metrics/loss").json()["points"]
    return [point["step"] for point in points] == list(range(STEPS))


def test_a_paused_job_frees_its_device_and_goes_on_from_where_it_stopped(user: User, tmp_path: Path) -> None:
    job_id = user.submit(waiting_run(user, tmp_path / "once"))
    until_they_wait(tmp_path / "once")
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
    flags = {"max_steps": 10_000, "enable_checkpointing": True}
    job_id = user.submit(user.net(step_seconds=0.02, batches=10_000, trainer=flags))
    user.until(job_id, lambda job: bool(job["progress"]), "it trains")
    asked = user.client.post(f"/v1/jobs/{job_id}/checkpoints")
    assert (asked.status_code, bool(asked.json()["checkpoint_requested_at"])) == (202, True)
    user.until(job_id, lambda job: not job["checkpoint_requested_at"], "it has saved", deadline_seconds=10)
    listed = user.client.get(f"/v1/jobs/{job_id}/checkpoints").json()["data"]
    (saved,) = [one for one in listed if one["kind"] == "requested"]
    loaded = torch.load(user.download(saved["id"], tmp_path / "saved.ckpt"), weights_only=True)
    assert 0 < loaded["global_step"] == saved["step"]
    assert "state_dict" in loaded
    job = user.until(job_id, lambda job: job["progress"]["global_step"] > saved["step"], "it goes on")
    assert (job["status"], job["attempt"]) == ("running", 1)
    user.client.post(f"/v1/jobs/{job_id}/cancel", params={"force": True})
    user.ended(job_id)


def test_a_job_of_higher_priority_takes_the_device_of_a_lower_one_which_goes_on_later(
    user: User, tmp_path: Path
) -> None:
    once = [tmp_path / "one", tmp_path / "two"]
    low = [user.submit(waiting_run(user, one)) for one in once]
    until_they_wait(*once)
    urgent = user.ended(user.submit(user.net(), priority=10))
    assert urgent["status"] == "succeeded"
    (tmp_path / "gate").touch()
    ended = [user.ended(job_id) for job_id in low]
    assert [job["status"] for job in ended] == ["succeeded", "succeeded"]
    outcomes = sorted([one["outcome"] for one in job["attempts"]] for job in ended)
    assert outcomes == [["preempted", "succeeded"], ["succeeded"]], "one was enough"
    assert all(is_whole(user, job_id) for job_id in low)
