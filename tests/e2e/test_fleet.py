"""What happens when parts of a stack go away, and several workers at once."""

from pathlib import Path

import psutil
import pytest

from tests.e2e.conftest import User
from tests.e2e.test_control import is_whole, until_they_wait, waiting_run
from tests.waiting import wait_until

LIFE = ["created", "claimed", "started", "first_step", "succeeded"]
JOBS = 30

# Where a test is of processes; those of the broker run on either kind. Workers also die on SQLite in test_nodes.py.
of_production = pytest.mark.parametrize("stack", ["production"], indirect=True)
of_two = pytest.mark.parametrize("worker_count", [2], ids=["two workers"])


@of_production
@of_two
def test_many_jobs_at_once_run_exactly_once_each_on_two_workers(user: User) -> None:
    jobs = [user.submit(user.net()) for _ in range(JOBS)]
    for job_id in jobs:
        job = user.ended(job_id, deadline_seconds=150)
        assert job["status"] == "succeeded", job["reason"]
        assert job["attempt"] == 1
        assert user.event_types(job_id) == LIFE
    workers = {user.job(job_id)["attempts"][0]["worker"] for job_id in jobs}
    assert workers == set(user.stack.workers), "both took their part"


@of_production
@of_two
def test_a_worker_told_to_stop_hands_its_job_to_another_at_no_cost_and_no_step_is_trained_twice(
    user: User, tmp_path: Path
) -> None:
    job_id = user.submit(waiting_run(user, tmp_path / "once"), limits={"max_attempts": 1})
    until_they_wait(tmp_path / "once")
    told = user.job(job_id)["attempts"][0]["worker"]
    assert user.stack.terminate(told) == 0
    names = [one["name"] for one in user.client.get("/v1/workers").json()["data"] if one["status"] == "online"]
    assert names == user.stack.workers, "it signed off"
    job = user.ended(job_id)
    assert job["status"] == "succeeded", job["reason"]
    first, second = job["attempts"]
    assert (first["outcome"], second["outcome"]) == ("preempted", "succeeded")
    assert (second["worker"], second["resume"], second["steps_lost"]) == (*user.stack.workers, "exact", 0)
    assert is_whole(user, job_id)


@of_production
def test_a_worker_killed_outright_loses_no_job_and_leaves_no_trainer(user: User, tmp_path: Path) -> None:
    once = str(tmp_path / "once")  # the trainer would outlive its worker by far
    job_id = user.submit(user.net("hang", at_step=2, once=once, batches=4, trainer={"max_steps": 4}))
    user.until_event(job_id, "first_step")
    (worker,) = user.stack.workers
    family = psutil.Process(user.stack.processes[worker].pid).children(recursive=True)
    assert len(family) >= 2
    user.stack.kill(worker)
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive, "fork server and trainers die with their worker"
    # With no worker up, the API itself notices.
    job = user.until(job_id, lambda job: job["status"] == "queued", "the lease has expired", deadline_seconds=30)
    assert job["waiting"]["reason"]
    user.stack.start(worker, "workers")
    job = user.ended(job_id, deadline_seconds=90)
    assert job["status"] == "succeeded", job["reason"]
    assert [one["outcome"] for one in job["attempts"]] == ["worker_lost", "succeeded"]


@of_production
def test_a_worker_told_to_stop_while_it_starts_ends_well_and_signs_off(user: User) -> None:
    before = user.stack.workers
    worker = psutil.Process(user.stack.start_worker().pid)
    wait_until(lambda: worker.cmdline()[0] == "lightyard-worker", what="the worker has begun", deadline_seconds=30)
    assert user.stack.terminate(user.stack.workers[-1]) == 0
    names = [one["name"] for one in user.client.get("/v1/workers").json()["data"] if one["status"] == "online"]
    assert names == before


def test_a_job_whose_doorbell_was_lost_runs_all_the_same(user: User) -> None:
    (name,) = user.stack.workers
    user.stack.freeze(name)
    try:
        job_id = user.submit(user.net())
        user.stack.flush_broker()
    finally:
        user.stack.thaw(name)
    assert user.ended(job_id)["status"] == "succeeded"


def test_a_job_submitted_while_the_broker_is_down_runs_when_it_is_back(user: User) -> None:
    user.stack.stop_broker()
    job_id = user.submit(user.net())
    assert user.job(job_id)["status"] == "queued"
    user.stack.start_broker()
    assert user.ended(job_id)["status"] == "succeeded"


@of_production
def test_processes_bear_their_names(user: User) -> None:
    job_id = user.submit(user.net("hang"))
    user.until_event(job_id, "first_step")
    (name,) = user.stack.workers

    def titles() -> list[str]:
        api = psutil.Process(user.stack.processes["api"].pid)
        worker = psutil.Process(user.stack.processes[name].pid)
        return [" ".join(one.cmdline()).strip() for one in (api, worker, *worker.children(recursive=True))]

    wanted = {"lightyard-api", "lightyard-worker", "lightyard-forkserver", f"lightyard-trainer {job_id} rank 0"}
    wait_until(lambda: wanted <= set(titles()), what=f"titles {wanted}")
    user.client.post(f"/v1/jobs/{job_id}/cancel", params={"force": True})
    user.ended(job_id)
