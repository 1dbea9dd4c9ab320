"""A trainer that goes wrong: the job says why within seconds, the worker lives, the next job runs."""

import signal
from pathlib import Path

import psutil
import pytest

from tests.e2e.conftest import User
from tests.waiting import wait_until

# How a trainer ends has nothing to do with the database; the fault suite breaks both backends.
pytestmark = pytest.mark.parametrize("stack", ["embedded"], indirect=True)


@pytest.mark.parametrize(
    ("what", "code", "message", "trace"),
    [
        ("raise", "user_error", "ValueError: the user's own mistake", "in misbehave"),
        ("segfault", "user_error", "crashed with SIGSEGV", "misbehave"),
        ("exit", "user_error", "exited with code 3", None),
        ("sys_exit", "user_error", "sys.exit('enough')", "in misbehave"),
        ("out_of_memory", "oom", "memory", "in misbehave"),
        ("no_space", "out_of_disk", "No space left", "in misbehave"),
    ],
)
def test_a_trainer_that_fails_tells_why(user: User, what: str, code: str, message: str, trace: str | None) -> None:
    job = user.ended(user.submit(user.net(what)))
    assert job["status"] == "failed"
    assert job["reason"]["code"] == code
    assert message in job["reason"]["message"]
    if trace is not None:
        assert trace in job["reason"]["traceback"]
    assert job["attempt"] == 1, "a user's error is never retried"
    assert user.event_types(job["id"])[-1] == "failed"
    after = user.ended(user.submit(user.net()))
    assert after["status"] == "succeeded", "the worker lives"


def test_a_trainer_that_eats_memory_past_its_limit_is_killed_as_such(user: User) -> None:
    job = user.ended(user.submit(user.net("eat_memory"), limits={"max_memory_bytes": 900 * 2**20}))
    assert (job["status"], job["reason"]["code"]) == ("failed", "oom")
    assert str(900 * 2**20) in job["reason"]["message"]


def test_a_job_past_its_time_limit_is_killed_as_such(user: User) -> None:
    job = user.ended(user.submit(user.net("hang"), limits={"max_seconds": 2}))
    assert (job["status"], job["reason"]["code"]) == ("failed", "timeout")


def test_a_trainer_killed_from_outside_is_tried_again_and_its_metrics_are_whole(user: User, tmp_path: Path) -> None:
    once = str(tmp_path / "once")
    config = user.net("die", at_step=3, once=once, batches=6, trainer={"max_steps": 6, "log_every_n_steps": 1})
    job = user.ended(user.submit(config))
    assert job["status"] == "succeeded", job["reason"]
    assert [(one["outcome"], one["resume"]) for one in job["attempts"]] == [
        ("worker_lost", None),
        ("succeeded", "restart"),
    ]
    types = user.event_types(job["id"])
    assert [types.count(name) for name in ("attempt_lost", "requeued", "claimed", "started")] == [1, 1, 2, 2]
    points = user.client.get(f"/v1/jobs/{job['id']}/metrics/loss").json()["points"]
    assert [point["step"] for point in points] == list(range(6))


def test_a_trainer_killed_late_goes_on_from_its_recovery_checkpoint(user: User, tmp_path: Path) -> None:
    once = str(tmp_path / "once")
    flags = {"max_steps": 40, "log_every_n_steps": 1, "enable_checkpointing": True}
    config = user.net("die", at_step=25, once=once, step_seconds=0.05, batches=40, trainer=flags)
    job = user.ended(user.submit(config))
    assert job["status"] == "succeeded", job["reason"]
    second = job["attempts"][1]
    assert second["resume"] == "exact"
    assert second["resumed_from"].startswith("ckpt_")
    assert 0 <= second["steps_lost"] < 25
    resumed = next(event for event in user.events(job["id"]) if event["type"] == "resumed")
    assert resumed["data"]["batches_skipped"] > 0
    points = user.client.get(f"/v1/jobs/{job['id']}/metrics/loss").json()["points"]
    assert [point["step"] for point in points] == list(range(40))
    kinds = [one["kind"] for one in user.client.get(f"/v1/jobs/{job['id']}/checkpoints").json()["data"]]
    assert kinds == ["model_checkpoint"], "a job that succeeded needs no recovery checkpoint"


def test_a_fork_server_that_dies_costs_an_attempt_not_the_job(user: User) -> None:
    job_id = user.submit(user.net(step_seconds=0.05, batches=40, trainer={"max_steps": 40}))
    user.until_event(job_id, "first_step")
    (name,) = user.stack.workers
    worker = psutil.Process(user.stack.processes[name].pid)
    (server,) = [child for child in worker.children() if child.name().startswith("lightyard-fork")]
    trainers = server.children(recursive=True)
    assert trainers
    server.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs(trainers, timeout=10)
    assert not alive, "no trainer outlives its fork server"
    job = user.ended(job_id)
    assert job["status"] == "succeeded", job["reason"]
    assert len(job["attempts"]) == 2


def test_a_trainer_told_to_stop_from_outside_is_tried_again(user: User) -> None:
    job_id = user.submit(user.net(step_seconds=0.05, batches=40, trainer={"max_steps": 40}))
    user.until_event(job_id, "first_step")
    pid = user.until_event(job_id, "started")["data"]["pid"]
    psutil.Process(pid).terminate()
    job = user.ended(job_id)
    assert job["status"] == "succeeded", job["reason"]
    assert [one["outcome"] for one in job["attempts"]] == ["worker_lost", "succeeded"]


def test_a_time_limit_set_on_a_running_job_counts(user: User) -> None:
    job_id = user.submit(user.net("hang"))
    user.until_event(job_id, "first_step")
    version = user.client.get(f"/v1/jobs/{job_id}").headers["ETag"]
    wanted = {"limits": {"max_seconds": 1}}
    # The version moves on while the job runs: read and change until both meet.
    while user.client.patch(f"/v1/jobs/{job_id}", json=wanted, headers={"If-Match": version}).status_code == 412:
        version = user.client.get(f"/v1/jobs/{job_id}").headers["ETag"]
    assert user.ended(job_id, deadline_seconds=20)["reason"]["code"] == "timeout"


def test_two_checkpoint_callbacks_with_the_same_file_name_keep_both(user: User) -> None:
    callbacks = [
        {"class_path": "ModelCheckpoint", "init_args": {"dirpath": f, "filename": "x", "monitor": "loss", "mode": mode}}
        for f, mode in (("a", "min"), ("b", "max"))
    ]
    job = user.ended(user.submit(user.net(trainer={"enable_checkpointing": True, "callbacks": callbacks})))
    assert job["status"] == "succeeded", job["reason"]
    listed = user.client.get(f"/v1/jobs/{job['id']}/checkpoints").json()["data"]
    assert len(listed) == 2
    assert job["best_checkpoint_id"] in {one["id"] for one in listed}


def test_a_profilers_report_is_an_artifact(user: User) -> None:
    profiler = {"class_path": "SimpleProfiler", "init_args": {"dirpath": "somewhere", "filename": "profile"}}
    job = user.ended(user.submit(user.net(trainer={"profiler": profiler})))
    assert job["status"] == "succeeded", job["reason"]
    names = {one["name"] for one in user.client.get(f"/v1/jobs/{job['id']}/artifacts").json()["data"]}
    assert names == {"config.yaml", "fit-profile.txt"}


def test_a_running_job_stops_between_two_steps_and_leaves_a_checkpoint(user: User) -> None:
    job_id = user.submit(user.net(step_seconds=0.02, batches=500, trainer={"max_steps": 5000}))
    user.until(job_id, lambda job: bool(job["progress"]), "it trains")
    asked = user.client.post(f"/v1/jobs/{job_id}/cancel")
    assert asked.status_code == 202
    assert asked.json()["cancel_requested_at"]
    job = user.ended(job_id)
    assert (job["status"], job["reason"]["code"]) == ("cancelled", "cancelled_by_user")
    types = user.event_types(job_id)
    assert types[-2:] == ["stopped", "cancelled"]
    (checkpoint,) = user.client.get(f"/v1/jobs/{job_id}/checkpoints").json()["data"]
    assert (checkpoint["kind"], checkpoint["id"]) == ("stop", job["last_checkpoint_id"])
    assert checkpoint["step"] == job["progress"]["global_step"] > 0
    assert user.client.post(f"/v1/jobs/{job_id}/cancel").json()["status"] == "cancelled", "asking again is no error"


def test_a_job_that_hangs_is_killed_by_force_at_once(user: User) -> None:
    job_id = user.submit(user.net("hang"))
    user.until_event(job_id, "first_step")
    user.client.post(f"/v1/jobs/{job_id}/cancel", params={"force": True})
    job = user.ended(job_id, deadline_seconds=10)
    assert job["status"] == "cancelled"
    assert "killed" in job["reason"]["message"]


def test_a_job_that_hangs_is_killed_after_its_grace(user: User) -> None:
    job_id = user.submit(user.net("hang"))
    user.until_event(job_id, "first_step")
    user.client.post(f"/v1/jobs/{job_id}/cancel")
    assert user.ended(job_id, deadline_seconds=30)["status"] == "cancelled"


def test_a_queued_job_is_cancelled_at_once(user: User) -> None:
    blockers = [user.submit(user.net(step_seconds=0.1, batches=600, trainer={"max_steps": 600})) for _ in range(2)]
    for blocker in blockers:
        user.until_event(blocker, "started")
    job_id = user.submit(user.net())
    job = user.job(job_id)
    assert job["status"] == "queued"
    assert job["waiting"]["reason"]
    cancelled = user.client.post(f"/v1/jobs/{job_id}/cancel").json()
    assert cancelled["status"] == "cancelled"
    for blocker in blockers:
        user.client.post(f"/v1/jobs/{blocker}/cancel", params={"force": True})
        user.ended(blocker)
    assert user.event_types(job_id) == ["created", "cancelled"], "it was never claimed"


def test_nothing_of_a_trainer_is_left_when_its_job_has_ended(user: User) -> None:
    user.ended(user.submit(user.net()))
    (name,) = user.stack.workers
    worker = psutil.Process(user.stack.processes[name].pid)

    def only_the_fork_server() -> bool:
        names = [child.name() for child in worker.children(recursive=True)]
        return all("trainer" not in name for name in names)

    wait_until(only_the_fork_server, what="no trainer is left")
