"""One job on two machines: two workers with a home of their own each, and whatever may happen to one of them."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e.conftest import User
from tests.stack import TESTS, Backend, Stack
from tests.waiting import wait_until

LESSON = (TESTS.parent / "examples" / "lessons" / "ddp_nodes.yaml").read_text()
STEPS = 80
SETTINGS = {
    "LIGHTYARD_WORKER_SLOTS": "1",
    "LIGHTYARD_CATALOG_MODULES": "models,misbehaving,exacting,lessons",
    "PYTHONPATH": os.pathsep.join([str(TESTS / "user_code"), str(TESTS.parent / "examples"), str(TESTS.parent)]),
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """An API and three workers with a slot each, of which every test leaves two; the third may still be starting."""
    with Stack(tmp_path_factory.mktemp("pair"), Backend("embedded", "", ""), workers=2, settings=SETTINGS) as running:
        running.start_worker()
        yield running


@pytest.fixture
def user(pair: Stack) -> User:
    return User(pair)


def together(user: User, **init_args: Any) -> dict[str, Any]:
    """A run of two epochs on two machines that shows it if a step was left out, done twice or drew other numbers."""
    flags = {"num_nodes": 2, "devices": 1, "accelerator": "cpu", "strategy": "ddp", "log_every_n_steps": 1}
    flags |= {"max_epochs": 2, "enable_model_summary": False, "enable_checkpointing": False}
    items = {"items": 4 * STEPS, "step_seconds": 0.04}
    return {
        "seed_everything": 11,
        "model": {"class_path": "exacting.Dropping", "init_args": items | init_args},
        "trainer": flags,
    }


@pytest.fixture(scope="module")
def undisturbed(pair: Stack) -> dict[str, Any]:
    """What such a run logs when nothing happens to it."""
    user = User(pair)
    job_id = user.submit(together(user, step_seconds=0.0))
    assert user.ended(job_id)["status"] == "succeeded"
    return series(user, job_id)


def series(user: User, job_id: str) -> dict[str, Any]:
    """Every value of every metric, by name and step."""
    names = [one["name"] for one in user.client.get(f"/v1/jobs/{job_id}/metrics").json()["data"]]
    found = {}
    for name in names:
        points = user.client.get(f"/v1/jobs/{job_id}/metrics/{name}").json()["points"]
        found[name] = [(point["step"], point["value"]) for point in points]
    return found


def trains(user: User, job_id: str, attempt: int, beyond: int = 0) -> dict[str, Any]:
    """The job, once an attempt trains and so many steps are done; a further attempt has told how it goes on, by then.

    Until it has told anything, the progress shown is that of the attempt before.
    """
    return user.until(
        job_id,
        lambda job: (
            job["attempt"] == attempt
            and job["phase"] == "training"
            and (attempt == 1 or job["attempts"][-1]["resume"] is not None)
            and (job["progress"] or {}).get("global_step", 0) > beyond
        ),
        f"attempt {attempt} trains",
    )


def workers_of(job: dict[str, Any]) -> tuple[str, str]:
    """The names of the worker that leads the newest attempt, and of its member."""
    newest = job["attempts"][-1]
    return newest["worker"], newest["members"][0]["worker"]


def trainers(user: User, name: str) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(user.stack.processes[name].pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # one that has ended since
            if "lightyard-trainer" in " ".join(child.cmdline()):
                found.append(child)
    return found


def assert_all_is_over(user: User) -> None:
    """No device is taken, and no trainer is left."""
    for worker in user.client.get("/v1/workers").json()["data"]:
        assert not any(device["busy"] for device in worker["devices"]) or worker["status"] == "offline"
    names = [name for name in user.stack.processes if name.startswith("worker-")]
    wait_until(lambda: not any(trainers(user, name) for name in names), what="no trainer is left")


def test_two_workers_run_one_job_together(user: User) -> None:
    job_id = user.submit(LESSON)
    job = user.ended(job_id)
    assert job["status"] == "succeeded", job["reason"]
    (attempt,) = job["attempts"]
    assert len(set(workers_of(job))) == 2
    assert [(one["node_rank"], one["devices"], one["state"]) for one in attempt["members"]] == [(1, ["cpu:0"], "ended")]
    losses = series(user, job_id)["loss"]
    assert [step for step, _ in losses] == list(range(len(losses)))
    assert len(losses) == job["progress"]["global_step"] == 57
    for rank in (0, 1):
        log = user.client.get(f"/v1/jobs/{job_id}/logs", params={"rank": rank}).text
        assert f"rank {rank} of 2: 585 images by DistributedSampler" in log
        assert f"rank {1 - rank} of 2" not in log
    refused = user.client.get(f"/v1/jobs/{job_id}/logs", params={"rank": 2})
    assert (refused.status_code, refused.json()["code"]) == (400, "bad_parameter")
    assert user.event_types(job_id).count("first_step") == 1
    assert len(user.client.get(f"/v1/jobs/{job_id}/checkpoints").json()["data"]) == 1
    assert_all_is_over(user)


def test_pause_a_killed_rank_and_a_frozen_worker_leave_no_trace_in_what_is_trained(
    user: User, undisturbed: dict[str, Any]
) -> None:
    job_id = user.submit(together(user))
    trains(user, job_id, 1, beyond=10)
    user.client.post(f"/v1/jobs/{job_id}/pause")
    user.until(job_id, lambda job: job["status"] == "paused", "it is paused", deadline_seconds=15)
    assert_all_is_over(user)
    user.client.post(f"/v1/jobs/{job_id}/resume")
    member = workers_of(trains(user, job_id, 2, beyond=20))[1]
    (rank,) = trainers(user, member)
    rank.kill()
    member = workers_of(trains(user, job_id, 3, beyond=35))[1]
    user.stack.freeze(member)
    try:
        user.until(job_id, lambda job: bool(job["attempts"][2]["outcome"]), "the attempt is given up", 30)
    finally:
        user.stack.thaw(member)
    job = user.ended(job_id, deadline_seconds=120)
    assert job["status"] == "succeeded", job["reason"]
    assert [one["outcome"] for one in job["attempts"]] == ["paused", "worker_lost", "worker_lost", "succeeded"]
    assert {one["resume"] for one in job["attempts"][1:]} == {"exact"}
    assert series(user, job_id) == undisturbed
    assert_all_is_over(user)


def test_a_job_is_cancelled_on_all_machines_at_once(user: User) -> None:
    job_id = user.submit(together(user))
    trains(user, job_id, 1)
    user.client.post(f"/v1/jobs/{job_id}/cancel", params={"force": True})
    assert user.ended(job_id, 15)["status"] == "cancelled"
    assert_all_is_over(user)


def test_what_a_rank_on_another_machine_raises_is_the_reason(user: User, tmp_path: Path) -> None:
    config = together(user)
    config["model"] = {"class_path": "misbehaving.OneRank", "init_args": {"what": "raise", "rank": 1, "batches": 8}}
    job = user.ended(user.submit(config))
    assert (job["status"], job["reason"]["code"]) == ("failed", "user_error")
    _, member = workers_of(job)
    assert job["reason"]["message"] == f"on {member} (node 1): ValueError: the user's own mistake"
    assert "training_step" in job["reason"]["traceback"]
    assert job["attempt"] == 1
    assert_all_is_over(user)


def test_a_worker_killed_in_the_middle_costs_an_attempt_and_no_step(user: User, undisturbed: dict[str, Any]) -> None:
    user.stack.have_workers(3)
    job_id = user.submit(together(user))
    first = workers_of(trains(user, job_id, 1, beyond=15))
    user.stack.kill(first[1])
    second = workers_of(trains(user, job_id, 2, beyond=30))
    assert set(second) == {"worker-1", "worker-2", "worker-3"} - {first[1]}, "another worker takes its place"
    user.stack.kill(second[0])
    for killed in (first[1], second[0]):
        user.stack.start(killed, "workers")
    job = user.ended(job_id, deadline_seconds=150)
    assert job["status"] == "succeeded", job["reason"]
    assert second[1] in workers_of(job), "with one that was started again"
    assert [one["outcome"] for one in job["attempts"]] == ["worker_lost", "worker_lost", "succeeded"]
    assert [one["resume"] for one in job["attempts"]] == [None, "exact", "exact"]
    assert series(user, job_id) == undisturbed
    assert_all_is_over(user)


def test_a_worker_told_to_stop_has_the_whole_job_save_first(user: User, undisturbed: dict[str, Any]) -> None:
    user.stack.have_workers(3)
    job_id = user.submit(together(user), limits={"max_attempts": 1})
    member = workers_of(trains(user, job_id, 1, beyond=15))[1]
    assert user.stack.terminate(member) == 0
    job = user.ended(job_id, deadline_seconds=150)
    assert job["status"] == "succeeded", job["reason"]
    assert [(one["outcome"], one["steps_lost"]) for one in job["attempts"]] == [("preempted", None), ("succeeded", 0)]
    assert series(user, job_id) == undisturbed
    assert_all_is_over(user)
