"""What happens when parts of a stack go away, and several workers at once."""

from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.e2e.conftest import User
from tests.stack import Stack
from tests.waiting import wait_until

LIFE = ["created", "claimed", "started", "first_step", "succeeded"]


@pytest.mark.parametrize("start_stack", ["production"], indirect=True)
def test_fifty_jobs_at_once_run_exactly_once_each_on_two_workers(start_stack: Callable[..., Stack]) -> None:
    user = User(start_stack(workers=2))
    jobs = [user.submit(user.net()) for _ in range(50)]
    for job_id in jobs:
        job = user.ended(job_id, deadline_seconds=150)
        assert job["status"] == "succeeded", job["reason"]
        assert job["attempt"] == 1
        assert user.event_types(job_id) == LIFE
    workers = {user.job(job_id)["attempts"][0]["worker"] for job_id in jobs}
    assert workers == {"worker-1", "worker-2"}, "both took their part"


def test_a_worker_killed_outright_loses_no_job_and_leaves_no_trainer(user: User, tmp_path: Path) -> None:
    once = str(tmp_path / "once")  # the trainer would outlive its worker by far
    job_id = user.submit(user.net("hang", at_step=2, once=once, batches=4, trainer={"max_steps": 4}))
    user.until_event(job_id, "first_step")
    family = psutil.Process(user.stack.processes["worker-1"].pid).children(recursive=True)
    assert len(family) >= 2
    user.stack.kill("worker-1")
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive, "fork server and trainers die with their worker"
    # With no worker up, the API itself notices.
    job = user.until(job_id, lambda job: job["status"] == "queued", "the lease has expired", deadline_seconds=30)
    assert job["waiting"]["reason"]
    user.stack.start_worker()
    job = user.ended(job_id, deadline_seconds=90)
    assert job["status"] == "succeeded", job["reason"]
    assert [one["outcome"] for one in job["attempts"]] == ["worker_lost", "succeeded"]


def test_a_worker_told_to_stop_hands_its_job_back_at_no_cost(user: User) -> None:
    config = user.net(step_seconds=0.05, batches=60, trainer={"max_steps": 60})
    job_id = user.submit(config, limits={"max_attempts": 1})
    user.until_event(job_id, "first_step")
    (worker,) = [one["id"] for one in user.client.get("/v1/workers").json()["data"] if one["status"] == "online"]
    assert user.stack.terminate("worker-1") == 0
    assert user.job(job_id)["status"] == "queued"
    assert worker not in {one["id"] for one in user.client.get("/v1/workers").json()["data"]}, "it signed off"
    user.stack.start_worker()
    job = user.ended(job_id, deadline_seconds=90)
    assert job["status"] == "succeeded", job["reason"]
    assert [one["outcome"] for one in job["attempts"]] == ["preempted", "succeeded"]


def test_a_worker_told_to_stop_while_it_starts_ends_well_and_signs_off(user: User) -> None:
    worker = psutil.Process(user.stack.start_worker().pid)
    wait_until(lambda: worker.cmdline()[0] == "lightyard-worker", what="the worker has begun", deadline_seconds=30)
    assert user.stack.terminate("worker-2") == 0
    names = [one["name"] for one in user.client.get("/v1/workers").json()["data"] if one["status"] == "online"]
    assert names == ["worker-1"]


def test_a_job_whose_doorbell_was_lost_runs_all_the_same(user: User) -> None:
    worker = psutil.Process(user.stack.processes["worker-1"].pid)
    worker.suspend()
    try:
        job_id = user.submit(user.net())
        user.stack.flush_broker()
    finally:
        worker.resume()
    assert user.ended(job_id)["status"] == "succeeded"


def test_a_job_submitted_while_the_broker_is_down_runs_when_it_is_back(user: User) -> None:
    user.stack.stop_broker()
    job_id = user.submit(user.net())
    assert user.job(job_id)["status"] == "queued"
    user.stack.start_broker()
    assert user.ended(job_id)["status"] == "succeeded"


def test_processes_bear_their_names(user: User) -> None:
    job_id = user.submit(user.net("hang"))
    user.until_event(job_id, "first_step")

    def titles() -> list[str]:
        api = psutil.Process(user.stack.processes["api"].pid)
        worker = psutil.Process(user.stack.processes["worker-1"].pid)
        return [" ".join(one.cmdline()).strip() for one in (api, worker, *worker.children(recursive=True))]

    wanted = {"lightyard-api", "lightyard-worker", "lightyard-forkserver", f"lightyard-trainer {job_id} rank 0"}
    wait_until(lambda: wanted <= set(titles()), what=f"titles {wanted}")
    user.client.post(f"/v1/jobs/{job_id}/cancel", params={"force": True})
    user.ended(job_id)
