"""Where a job starts: checkpoints of the caller's own, by name, which stay as long as a job needs them."""

from pathlib import Path
from typing import Any

import pytest

from core.checkpoints import Checkpoints
from core.errors import Conflict
from core.ids import new_id
from core.job import NewJob
from core.jobs import Jobs
from core.states import CheckpointKind, Status
from core.storage import Store
from core.tables import checkpoints, jobs, projects
from tests.app.parts import CONFIG, Api


@pytest.fixture
def parent(api: Api, tmp_path: Path) -> dict[str, Any]:
    """A job that has ended well, with a best and a last checkpoint."""
    claim = api.running_job()
    api.checkpoint(claim, b"best", tmp_path, name="best.ckpt", is_best=True)
    api.checkpoint(claim, b"last", tmp_path, is_last=True)
    api.finish(claim)
    return api.job(claim.job.id)


def refusals(api: Api, **document: Any) -> list[tuple[str, str]]:
    answer = api.http.post("/v1/jobs", json=document)
    assert answer.status_code == 422, answer.text
    return [(fault["pointer"], fault["code"]) for fault in answer.json()["errors"]]


def test_each_way_to_name_a_checkpoint_leads_to_the_one_that_it_is_now(api: Api, parent: dict[str, Any]) -> None:
    best, last = parent["best_checkpoint_id"], parent["last_checkpoint_id"]
    for name, found in ((best, best), (f"{parent['id']}/best", best), (f"{parent['id']}/{last}", last)):
        job = api.submit(CONFIG | {"ckpt_path": name})
        assert job["start_checkpoint_id"] == job["config"]["ckpt_path"] == found
        assert job["weights_checkpoint_id"] is None
        tuned = api.submit(weights_from=name)
        assert (tuned["weights_checkpoint_id"], tuned["start_checkpoint_id"]) == (found, None)
    (made,) = api.http.get(f"/v1/jobs/{job['id']}/events").json()["data"]
    assert made["data"] == {"start_checkpoint_id": last}


def test_what_is_not_there_or_anothers_is_told_by_pointer_with_all_other_faults(
    api: Api, parent: dict[str, Any]
) -> None:
    with api.database.write() as connection:
        connection.execute(projects.insert().values(id="prj_2", name="other", created_at=api.database.now(connection)))
        connection.execute(jobs.update().where(jobs.c.id == parent["id"]).values(project_id="prj_2"))
    theirs, nobodys = parent["best_checkpoint_id"], new_id("ckpt")
    for name, code in (
        (theirs, "checkpoint_not_found"),
        (nobodys, "checkpoint_not_found"),
        (f"{parent['id']}/best", "job_not_found"),
        ("/etc/passwd", "refused"),
        ("https://elsewhere/x.ckpt", "refused"),
    ):
        assert refusals(api, config=CONFIG | {"ckpt_path": name}) == [("/config/ckpt_path", code)]
    config = {"model": {"class_path": "models.vision.Nothing"}, "ckpt_path": theirs}
    assert refusals(api, config=config, weights_from=nobodys) == [
        ("/weights_from", "excludes"),
        ("/config/model/class_path", "unknown_class"),
        ("/config/ckpt_path", "checkpoint_not_found"),
        ("/weights_from", "checkpoint_not_found"),
    ]
    told = api.http.post("/v1/jobs:validate", json={"config": CONFIG, "weights_from": theirs}).json()
    assert [(fault["pointer"], fault["code"]) for fault in told["errors"]] == [
        ("/weights_from", "checkpoint_not_found")
    ]


def test_last_without_a_job_to_go_on_from_means_what_it_does_by_hand(api: Api) -> None:
    api.worker()
    job = api.submit(CONFIG | {"ckpt_path": "last"})
    assert (job["start_checkpoint_id"], job["config"]["ckpt_path"]) == (None, "last")
    needs_a_job = [("/config/ckpt_path", "requires")]
    assert refusals(api, config=CONFIG | {"ckpt_path": "best"}) == needs_a_job
    assert refusals(api, config=CONFIG | {"ckpt_path": "last"}, subcommand="test") == needs_a_job
    assert refusals(api, config=CONFIG, weights_from="last") == [("/weights_from", "requires")]


def test_a_retry_goes_on_from_a_checkpoint_of_its_parent_and_may_change_the_config(
    api: Api, parent: dict[str, Any]
) -> None:
    path, best, last = f"/v1/jobs/{parent['id']}/retry", parent["best_checkpoint_id"], parent["last_checkpoint_id"]
    for start, found in (("last", last), ("best", best), (best, best)):
        child = api.http.post(path, params={"from": start}).json()
        assert (child["start_checkpoint_id"], child["parent_id"]) == (found, parent["id"])
        assert child["config"] == parent["config"] | {"ckpt_path": found}
    forked = api.http.post(path, params={"from": "last"}, json={"config": {"trainer": {"max_epochs": 9}}}).json()
    assert forked["config"]["trainer"]["max_epochs"] == 9
    tested = api.http.post(path, params={"from": "best"}, json={"subcommand": "test"}).json()
    assert (tested["subcommand"], tested["start_checkpoint_id"]) == ("test", best)
    named = api.http.post(path, json={"config": {"ckpt_path": "best"}}).json()
    assert named["start_checkpoint_id"] == best
    assert api.http.post(path).json()["start_checkpoint_id"] is None
    for start, status, code in (
        ("/etc/passwd", 400, "bad_parameter"),
        (new_id("ckpt"), 404, "checkpoint_not_found"),
        (f"{new_id('job')}/best", 404, "job_not_found"),
    ):
        answer = api.http.post(path, params={"from": start})
        assert (answer.status_code, answer.json()["code"]) == (status, code)
    both = api.http.post(path, params={"from": "last"}, json={"config": {"ckpt_path": best}}).json()
    assert [(fault["pointer"], fault["code"]) for fault in both["errors"]] == [("/config/ckpt_path", "excludes")]


def test_a_retry_of_a_retry_starts_where_that_did_until_it_is_told_otherwise(api: Api, parent: dict[str, Any]) -> None:
    best, last = parent["best_checkpoint_id"], parent["last_checkpoint_id"]
    claims = {}
    for name, answer in (
        ("started", api.http.post(f"/v1/jobs/{parent['id']}/retry", params={"from": "best"})),
        ("tuned", api.http.post(f"/v1/jobs/{parent['id']}/retry", json={"weights_from": "best"})),
    ):
        assert answer.status_code == 201, answer.text
        claims[name] = answer.json()["id"]
        api.http.post(f"/v1/jobs/{claims[name]}/cancel")
    for name, body, expected in (
        ("started", {}, (best, None)),
        ("started", {"config": {"ckpt_path": None}}, (None, None)),
        ("started", {"weights_from": last}, (None, last)),
        ("tuned", {}, (None, best)),
        ("tuned", {"weights_from": None}, (None, None)),
        ("tuned", {"config": {"ckpt_path": last}}, (last, None)),
    ):
        child = api.http.post(f"/v1/jobs/{claims[name]}/retry", json=body).json()
        assert (child["start_checkpoint_id"], child["weights_checkpoint_id"]) == expected, (name, body)


def test_a_job_without_the_checkpoint_that_is_asked_for_says_so(api: Api) -> None:
    claim = api.running_job()
    api.finish(claim)
    answer = api.http.post(f"/v1/jobs/{claim.job.id}/retry", params={"from": "best"})
    assert (answer.status_code, answer.json()["code"]) == (404, "no_checkpoint_yet")
    assert refusals(api, config=CONFIG, weights_from=f"{claim.job.id}/best") == [("/weights_from", "no_checkpoint_yet")]


def test_a_checkpoint_that_a_job_is_to_start_from_cannot_be_deleted_until_it_has_ended(
    api: Api, parent: dict[str, Any]
) -> None:
    best = parent["best_checkpoint_id"]
    users = [api.submit(CONFIG | {"ckpt_path": best})["id"], api.submit(weights_from=best)["id"]]
    for path in (f"/v1/checkpoints/{best}", f"/v1/jobs/{parent['id']}"):
        answer = api.http.delete(path)
        assert (answer.status_code, answer.json()["code"]) == (409, "checkpoint_in_use")
        assert answer.json()["job_ids"] == sorted(users)
    assert api.http.get(f"/v1/checkpoints/{best}/content").content == b"best"
    api.http.post(f"/v1/jobs/{users[0]}/cancel")
    assert api.http.delete(f"/v1/checkpoints/{best}").json()["job_ids"] == users[1:]
    api.http.post(f"/v1/jobs/{users[1]}/cancel")
    assert api.http.delete(f"/v1/checkpoints/{best}").status_code == 204
    assert api.http.delete(f"/v1/jobs/{parent['id']}").status_code == 204


def test_what_a_run_lets_go_while_a_job_is_to_start_from_it_is_collected_afterwards(api: Api, tmp_path: Path) -> None:
    claim = api.running_job()
    rotated = api.checkpoint(claim, b"rotated", tmp_path)
    recovery = api.checkpoint(claim, b"recovery", tmp_path, kind=CheckpointKind.RECOVERY, name="recovery.ckpt")
    users = [api.submit(CONFIG | {"ckpt_path": one})["id"] for one in (rotated, recovery)]
    store, files = Checkpoints(api.database), Store(api.config.storage)
    (old,) = store.named(claim.job.id, "last.ckpt")
    assert not store.forget(old, files, token=claim.token)
    api.finish(claim)
    left = {one["id"] for one in api.http.get(f"/v1/jobs/{claim.job.id}/checkpoints").json()["data"]}
    assert left == {rotated, recovery}
    assert store.collect(files) == 0
    for user in users:
        api.http.post(f"/v1/jobs/{user}/cancel")
    assert store.collect(files) == 2
    assert api.http.get(f"/v1/jobs/{claim.job.id}/checkpoints").json()["data"] == []
    assert not any(files.path(f"jobs/{claim.job.id}/checkpoints/{one}").exists() for one in left)


def test_a_checkpoint_deleted_while_a_job_is_being_made_stops_that(api: Api, parent: dict[str, Any]) -> None:
    spec = {"config": CONFIG | {"ckpt_path": parent["best_checkpoint_id"]}}
    assert api.http.post("/v1/jobs:validate", json=spec).json()["valid"]
    before, found = api.count(), Checkpoints(api.database)
    # As between the look for the checkpoint and the transaction that makes the job.
    with api.database.write() as connection:
        connection.execute(checkpoints.delete())
    new = NewJob(CONFIG, ["m"], "cpu", 1, 60.0, 1, start_checkpoint_id=parent["best_checkpoint_id"])
    with pytest.raises(Conflict, match="was deleted just now"), api.database.write() as connection:
        Jobs(api.database).create(connection, parent["project"], new)
    assert (api.count(), found.any()) == (before, False)


def test_an_evaluation_has_nothing_to_save(api: Api) -> None:
    claim = api.running_job(subcommand="test")
    answer = api.http.post(f"/v1/jobs/{claim.job.id}/checkpoints")
    assert (answer.status_code, answer.json()["code"]) == (409, "nothing_to_save")
    assert api.stop(claim) is Status.QUEUED
