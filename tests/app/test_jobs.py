import copy
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from core.ids import new_id
from core.states import Status
from tests.app.parts import CATALOG, CONFIG, Api

JOB_FIELDS = {
    *("id", "name", "labels", "project", "parent_id", "status", "phase", "reason", "progress", "attempt", "attempts"),
    *("metrics", "best_checkpoint_id", "last_checkpoint_id", "config", "priority", "limits", "version", "created_at"),
    *("subcommand", "summary", "dry_run", "stop_on_nan", "start_checkpoint_id", "weights_checkpoint_id"),
    *("started_at", "finished_at", "cancel_requested_at", "pause_requested_at", "checkpoint_requested_at", "waiting"),
}


def test_a_submitted_job_is_queued_and_can_be_read(api: Api) -> None:
    api.worker()
    answer = api.http.post(
        "/v1/jobs", json={"config": CONFIG, "name": "digits", "labels": {"team": "vision"}, "priority": 3}
    )
    assert answer.status_code == 201, answer.text
    job = answer.json()
    assert answer.headers["Location"] == f"/v1/jobs/{job['id']}"
    assert set(job) == JOB_FIELDS
    assert (job["status"], job["name"], job["labels"]) == ("queued", "digits", {"team": "vision"})
    assert (job["priority"], job["project"], job["config"]) == (3, "default", CONFIG)
    assert job["waiting"] == {"position": 0, "reason": "waiting for a free device"}
    assert job["created_at"].endswith("Z")
    read = api.http.get(answer.headers["Location"])
    assert read.headers["ETag"] == answer.headers["ETag"]
    assert read.json() == job


def test_limits_that_a_spec_leaves_out_are_the_settings(api: Api) -> None:
    api.worker()
    assert api.submit()["limits"] == {
        "max_seconds": api.config.job_max_seconds,
        "max_attempts": api.config.job_max_attempts,
        "max_memory_bytes": None,
        "retry_oom": False,
    }
    own = {"max_seconds": 60, "max_attempts": 1, "max_memory_bytes": 2**30, "retry_oom": True}
    assert api.submit(limits=own)["limits"] == own
    assert api.submit(limits={"retry_oom": None})["limits"]["retry_oom"] is False


def test_whether_to_retry_what_ran_out_of_memory_can_be_changed_and_goes_on_to_a_retry(api: Api) -> None:
    claim = api.running_job(limits={"max_attempts": 2})
    path, job = f"/v1/jobs/{claim.job.id}", api.job(claim.job.id)
    for asked, told in ((True, True), (None, False), (True, True)):
        answer = api.http.patch(path, json={"limits": {"retry_oom": asked}}, headers={"If-Match": "*"})
        assert answer.status_code == 200, answer.text
        assert answer.json()["limits"] == {**job["limits"], "retry_oom": told}, "the other limits stay"
    refused = api.http.patch(path, json={"limits": {"retry_oom": "yes"}}, headers={"If-Match": "*"})
    assert [fault["pointer"] for fault in refused.json()["errors"]] == ["/limits/retry_oom"]
    api.finish(claim, Status.FAILED, {"code": "oom", "message": "no"})
    child = api.http.post(f"{path}/retry").json()
    assert child["limits"] == {**job["limits"], "retry_oom": True}


def test_a_plain_lightning_yaml_is_a_job(api: Api) -> None:
    api.worker()
    text = """
seed_everything: 1
model: {class_path: ImageClassifier, init_args: {lr: 0.01}}
data: {class_path: models.data.Digits}
trainer: {max_epochs: 3}
"""
    answer = api.http.post("/v1/jobs", content=text, headers={"Content-Type": "application/yaml"})
    assert answer.status_code == 201, answer.text
    config = answer.json()["config"]
    assert config["model"]["class_path"] == "models.vision.ImageClassifier"
    assert config["trainer"] == {"max_epochs": 3}


@pytest.mark.parametrize("seed", ["absent", True, None])
def test_a_seed_that_is_not_given_is_drawn_once_at_submission(api: Api, seed: Any) -> None:
    api.worker()
    config = {key: value for key, value in CONFIG.items() if key != "seed_everything"}
    if seed != "absent":
        config["seed_everything"] = seed
    first, second = (api.submit(config)["config"]["seed_everything"] for _ in range(2))
    assert type(first) is int
    assert 0 <= first < 2**32
    assert first != second


def test_every_fault_is_told_at_once_with_its_pointer_and_nothing_is_made(api: Api) -> None:
    api.worker()
    config = copy.deepcopy(CONFIG)
    config["model"]["init_args"] = {"lr": -1, "widht": 3}
    config["data"]["class_path"] = "models.data.Digit"
    config["trainer"]["max_epochs"] = "many"
    answer = api.http.post("/v1/jobs", json={"config": config, "priority": 1000, "nmae": "x"})
    assert answer.status_code == 422
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = answer.json()
    assert problem["code"] == "invalid_request"
    faults = {fault["pointer"]: fault for fault in problem["errors"]}
    assert set(faults) == {
        "/config/model/init_args/lr",
        "/config/model/init_args/widht",
        "/config/data/class_path",
        "/config/trainer/max_epochs",
        "/priority",
        "/nmae",
    }
    assert "width" in faults["/config/model/init_args/widht"]["message"]
    assert "models.data.Digits" in faults["/config/data/class_path"]["message"]
    assert "name" in faults["/nmae"]["message"]
    assert api.count() == 0


@pytest.mark.parametrize("field", ["bundle", "webhook"])
def test_fields_of_later_versions_are_refused_by_a_code_of_their_own(api: Api, field: str) -> None:
    api.worker()
    answer = api.http.post("/v1/jobs", json={"config": CONFIG, field: "bun_1"})
    assert answer.status_code == 422
    assert [(fault["pointer"], fault["code"]) for fault in answer.json()["errors"]] == [
        (f"/{field}", "not_yet_supported")
    ]


def test_validate_tells_the_defaults_and_makes_nothing(api: Api) -> None:
    api.worker()
    answer = api.http.post("/v1/jobs:validate", json={"config": CONFIG})
    assert answer.status_code == 200
    told = answer.json()
    assert (told["valid"], told["errors"]) == (True, [])
    assert told["config"]["model"]["init_args"] == {"lr": 0.01, "width": 32}
    assert api.count() == 0


def test_validate_tells_faults_with_200(api: Api) -> None:
    api.worker()
    answer = api.http.post("/v1/jobs:validate", json={"config": {"model": {"class_path": "models.Nothing"}}})
    assert answer.status_code == 200
    told = answer.json()
    assert (told["valid"], told["config"]) == (False, None)
    assert [fault["pointer"] for fault in told["errors"]] == ["/config/model/class_path"]
    repeated = '{"config": {}, "config": {}}'
    answer = api.http.post("/v1/jobs:validate", content=repeated, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200
    assert [fault["code"] for fault in answer.json()["errors"]] == ["duplicate_key"]


def test_a_running_job_tells_its_attempt_phase_progress_and_metrics(api: Api) -> None:
    claim = api.running_job()
    api.note(
        claim,
        phase="training",
        progress={"epoch": 1, "global_step": 30, "fraction": 0.5, "steps_per_second": float("inf")},
        metrics={"loss": 0.25, "worst": "NaN"},
    )
    job = api.job(claim.job.id)
    assert (job["status"], job["phase"], job["waiting"]) == ("running", "training", None)
    assert job["progress"]["global_step"] == 30
    assert job["metrics"] == {"loss": 0.25, "worst": "NaN"}
    (attempt,) = job["attempts"]
    assert set(attempt) == {
        *("number", "worker", "devices", "started_at", "ended_at", "outcome", "resumed_from", "steps_lost", "resume"),
        "members",
    }
    assert (attempt["number"], attempt["worker"], attempt["devices"]) == (1, "box", ["cpu:0"])


def test_a_failed_job_tells_why(api: Api) -> None:
    claim = api.running_job()
    reason = {"code": "user_error", "message": "ValueError: no", "traceback": "Traceback …"}
    api.finish(claim, Status.FAILED, reason)
    assert api.job(claim.job.id)["reason"] == reason | {"data": None}


def test_cancelling_a_queued_job_ends_it_and_repeating_changes_nothing(api: Api) -> None:
    api.worker()
    job = api.submit()
    answers = [api.http.post(f"/v1/jobs/{job['id']}/cancel") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 202]
    assert answers[0].json() == answers[1].json()
    assert (answers[0].json()["status"], answers[0].json()["reason"]["code"]) == ("cancelled", "cancelled_by_user")


def test_cancelling_a_running_job_is_a_request(api: Api) -> None:
    claim = api.running_job()
    asked = api.http.post(f"/v1/jobs/{claim.job.id}/cancel").json()
    assert asked["status"] == "running"
    assert asked["cancel_requested_at"] is not None
    forced = api.http.post(f"/v1/jobs/{claim.job.id}/cancel", params={"force": "true"})
    assert forced.status_code == 202
    assert forced.json()["version"] == asked["version"] + 1


def test_a_job_that_has_ended_cannot_be_cancelled(api: Api) -> None:
    claim = api.running_job()
    api.finish(claim)
    answer = api.http.post(f"/v1/jobs/{claim.job.id}/cancel")
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (409, "invalid_transition")
    assert (problem["status"], problem["job_status"]) == (409, "succeeded")
    assert problem["allowed_actions"] == ["retry", "delete"]


def test_deleting_waits_for_the_end_and_takes_the_files_along(api: Api, tmp_path: Any) -> None:
    claim = api.running_job()
    checkpoint_id = api.checkpoint(claim, b"weights", tmp_path, is_last=True)
    path = f"/v1/jobs/{claim.job.id}"
    assert api.http.delete(path).status_code == 409
    api.finish(claim)
    assert api.http.delete(path).status_code == 204
    assert api.http.get(path).status_code == 404
    assert api.http.get(f"/v1/checkpoints/{checkpoint_id}/content").status_code == 404
    assert not [file for file in (api.config.home / "store").rglob("*") if file.is_file() and claim.job.id in str(file)]
    assert api.http.delete(path).status_code == 404


def act(api: Api, job_id: str, action: str) -> httpx.Response:
    """Ask something of a job; what was taken is answered as the job reads now, under its new `ETag`."""
    answer = api.http.post(f"/v1/jobs/{job_id}/{action}")
    if answer.status_code == 202:
        read = api.http.get(f"/v1/jobs/{job_id}")
        assert (read.json(), read.headers["ETag"]) == (answer.json(), answer.headers["ETag"])
    return answer


def happened(api: Api, job_id: str) -> list[str]:
    return [event["type"] for event in api.http.get(f"/v1/jobs/{job_id}/events").json()["data"]]


def test_a_queued_job_is_paused_and_resumed_at_once_and_repeating_changes_nothing(api: Api) -> None:
    api.worker()
    job_id = api.submit()["id"]
    tags = [api.http.get(f"/v1/jobs/{job_id}").headers["ETag"]]
    for action, status in (("pause", "paused"), ("resume", "queued")):
        first, again = (act(api, job_id, action) for _ in range(2))
        assert (first.status_code, first.json()["status"]) == (202, status)
        assert first.json() == again.json()
        tags.append(first.headers["ETag"])
    assert len(set(tags)) == 3
    assert happened(api, job_id) == ["created", "paused", "unpaused"]
    assert first.json()["waiting"]["position"] == 0


def test_pausing_a_running_job_is_a_request_that_can_be_taken_back(api: Api) -> None:
    claim = api.running_job()
    asked = act(api, claim.job.id, "pause").json()
    assert asked["status"] == "running"
    assert asked["pause_requested_at"].endswith("Z")
    assert act(api, claim.job.id, "pause").json() == asked
    back = act(api, claim.job.id, "resume").json()
    assert (back["status"], back["pause_requested_at"]) == ("running", None)
    assert back["version"] == asked["version"] + 1
    assert happened(api, claim.job.id) == ["created", "claimed", "pause_requested", "pause_withdrawn"]


def test_a_paused_job_frees_its_device_keeps_its_place_and_is_claimed_again_when_resumed(api: Api) -> None:
    worker_id = api.worker(devices=1)
    api.submit()
    claim = api.claim(worker_id)
    api.note(claim, phase="training", progress={"global_step": 30})
    act(api, claim.job.id, "pause")
    assert api.stop(claim) is Status.PAUSED
    paused = api.job(claim.job.id)
    assert (paused["status"], paused["phase"], paused["pause_requested_at"]) == ("paused", None, None)
    assert paused["progress"]["global_step"] == 30
    assert (paused["reason"], paused["finished_at"], paused["waiting"]) == (None, None, None)
    other = api.submit()["id"]
    api.finish(api.claim(worker_id))
    assert api.job(other)["status"] == "succeeded"
    assert act(api, claim.job.id, "resume").json()["status"] == "queued"
    assert api.claim(worker_id).attempt == 2
    assert happened(api, claim.job.id) == [
        *("created", "claimed", "pause_requested", "stopped", "paused", "unpaused", "claimed")
    ]


def test_a_checkpoint_that_is_asked_for_shows_until_it_is_saved(api: Api, tmp_path: Path) -> None:
    claim = api.running_job()
    asked = act(api, claim.job.id, "checkpoints").json()
    assert asked["checkpoint_requested_at"].endswith("Z")
    assert act(api, claim.job.id, "checkpoints").json() == asked
    checkpoint_id = api.checkpoint(claim, b"weights", tmp_path, kind="requested")
    job = api.job(claim.job.id)
    assert (job["checkpoint_requested_at"], job["status"]) == (None, "running")
    page = api.http.get(f"/v1/jobs/{claim.job.id}/checkpoints").json()["data"]
    assert [(one["id"], one["kind"]) for one in page] == [(checkpoint_id, "requested")]
    assert happened(api, claim.job.id)[-2:] == ["checkpoint_requested", "checkpoint_saved"]


def test_a_cancelled_job_keeps_where_it_stopped_as_its_last_checkpoint(api: Api, tmp_path: Path) -> None:
    claim = api.running_job()
    checkpoint_id = api.checkpoint(claim, b"weights", tmp_path, name="recovery-7.ckpt", kind="recovery")
    act(api, claim.job.id, "cancel")
    assert api.stop(claim) is Status.CANCELLED
    last = api.http.get(f"/v1/jobs/{claim.job.id}/checkpoints/last").json()
    assert (last["id"], last["kind"], last["is_last"]) == (checkpoint_id, "stop", True)
    assert happened(api, claim.job.id)[-3:] == ["cancel_requested", "stopped", "cancelled"]


@pytest.mark.parametrize(
    ("reach", "action", "status", "allowed"),
    [
        ((), "checkpoints", "queued", ["cancel", "pause"]),
        (("pause",), "checkpoints", "paused", ["cancel", "resume"]),
        (("claim", "cancel"), "pause", "running", ["cancel", "checkpoints"]),
        (("claim", "cancel"), "resume", "running", ["cancel", "checkpoints"]),
        *(
            (reach, action, status, ["retry", "delete"])
            for reach, status in ((("cancel",), "cancelled"), (("claim", "finish"), "succeeded"))
            for action in ("pause", "resume", "checkpoints")
        ),
    ],
)
def test_an_action_that_cannot_be_is_a_conflict_that_tells_which_can(
    any_api: Api, reach: tuple[str, ...], action: str, status: str, allowed: list[str]
) -> None:
    api, worker_id = any_api, any_api.worker()
    job = api.submit()
    for step in reach:
        if step == "claim":
            claim = api.claim(worker_id)
        elif step == "finish":
            api.finish(claim)
        else:
            assert act(api, job["id"], step).status_code == 202
    before = api.job(job["id"])
    answer = act(api, job["id"], action)
    problem = answer.json()
    assert (answer.status_code, answer.headers["Content-Type"]) == (409, "application/problem+json")
    assert (problem["code"], problem["status"], problem["job_status"]) == ("invalid_transition", 409, status)
    assert problem["allowed_actions"] == allowed
    assert api.job(job["id"]) == before


@pytest.mark.parametrize("action", ["cancel", "pause", "resume", "checkpoints"])
def test_an_action_on_a_job_that_does_not_exist_is_not_found(any_api: Api, action: str) -> None:
    answer = act(any_api, new_id("job"), action)
    assert (answer.status_code, answer.json()["code"]) == (404, "job_not_found")


def test_a_retry_is_a_new_job_with_the_same_config(api: Api) -> None:
    claim = api.running_job(name="first", labels={"a": "b"}, priority=7, limits={"max_attempts": 2})
    api.finish(claim, Status.FAILED, {"code": "user_error", "message": "no"})
    parent = api.job(claim.job.id)
    answer = api.http.post(f"/v1/jobs/{claim.job.id}/retry")
    assert answer.status_code == 201, answer.text
    child = answer.json()
    assert child["id"] != parent["id"]
    assert child["parent_id"] == parent["id"]
    for field in ("name", "labels", "priority", "limits", "config"):
        assert child[field] == parent[field]


def test_a_retry_merges_overrides_and_checks_them(api: Api) -> None:
    claim = api.running_job()
    api.finish(claim)
    path = f"/v1/jobs/{claim.job.id}/retry"
    child = api.http.post(path, json={"config": {"model": {"init_args": {"width": 8}}}}).json()
    assert child["config"]["model"]["init_args"] == {"lr": 0.01, "width": 8}
    assert child["config"]["data"] == CONFIG["data"]
    bad = api.http.post(path, json={"config": {"model": {"init_args": {"width": 0}}}, "name": "x"})
    assert (bad.status_code, [fault["pointer"] for fault in bad.json()["errors"]]) == (422, ["/name"])
    bad = api.http.post(path, json={"config": {"model": {"init_args": {"width": 0}}}})
    assert [fault["pointer"] for fault in bad.json()["errors"]] == ["/config/model/init_args/width"]
    assert api.count() == 2


def test_an_override_that_names_another_class_replaces_its_arguments(api: Api) -> None:
    claim = api.running_job({**CONFIG, "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.5}}})
    api.finish(claim)
    override = {"model": {"class_path": "models.vision.Other", "init_args": {}}}
    bad = api.http.post(f"/v1/jobs/{claim.job.id}/retry", json={"config": override}).json()
    assert [fault["pointer"] for fault in bad["errors"]] == ["/config/model/class_path"]


def test_a_retry_of_a_running_job_is_a_conflict_from_a_checkpoint_too(api: Api) -> None:
    claim = api.running_job()
    path = f"/v1/jobs/{claim.job.id}/retry"
    for params in ({}, {"from": "last"}):
        answer = api.http.post(path, params=params)
        assert (answer.status_code, answer.json()["code"]) == (409, "invalid_transition")


def test_a_thousand_clients_may_submit_at_once(api: Api) -> None:
    api.worker()
    made: list[str] = []

    def submit() -> None:
        made.extend(api.submit()["id"] for _ in range(5))

    threads = [threading.Thread(target=submit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 40
    assert api.count() == 40


def test_a_class_that_leaves_the_catalogue_does_not_hurt_jobs_that_name_it(api: Api) -> None:
    claim = api.running_job()
    assert CATALOG.get("models.vision.ImageClassifier") is not None
    api.worker(type(CATALOG)(entries=CATALOG.entries[1:]), name="other")
    assert api.job(claim.job.id)["status"] == "running"
