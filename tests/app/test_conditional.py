"""ETags: reading only what changed, waiting for it, and changing only what was read."""

import socket
import threading
import time

import pytest

from tests.app.parts import Api
from tests.waiting import wait_until


def test_an_unchanged_job_is_not_sent_again(api: Api) -> None:
    api.worker()
    path = f"/v1/jobs/{api.submit()['id']}"
    tag = api.http.get(path).headers["ETag"]
    assert tag.startswith('"')
    for header in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        answer = api.http.get(path, headers={"If-None-Match": header})
        assert (answer.status_code, answer.content, answer.headers["ETag"]) == (304, b"", tag), header
    api.http.post(f"{path}/cancel")
    changed = api.http.get(path, headers={"If-None-Match": tag})
    assert changed.status_code == 200
    assert changed.headers["ETag"] != tag


def test_two_jobs_of_the_same_version_have_different_tags(api: Api) -> None:
    api.worker()
    tags = {api.http.get(f"/v1/jobs/{api.submit()['id']}").headers["ETag"] for _ in range(2)}
    assert len(tags) == 2


def test_waiting_answers_as_soon_as_the_job_changes(api: Api) -> None:
    claim = api.running_job()
    path = f"/v1/jobs/{claim.job.id}"
    tag = api.http.get(path).headers["ETag"]
    began = time.monotonic()

    def finish_while_watched() -> None:
        wait_until(lambda: api.running.config.app.state.service.hub.waiters, what="somebody waits")
        api.finish(claim)

    thread = threading.Thread(target=finish_while_watched)
    thread.start()
    answer = api.http.get(path, params={"wait": 30}, headers={"If-None-Match": tag}, timeout=40)
    thread.join()
    assert (answer.status_code, answer.json()["status"]) == (200, "succeeded")
    assert time.monotonic() - began < 10


def test_waiting_in_vain_answers_304(api: Api) -> None:
    api.worker()
    path = f"/v1/jobs/{api.submit()['id']}"
    tag = api.http.get(path).headers["ETag"]
    began = time.monotonic()
    answer = api.http.get(path, params={"wait": 0.3}, headers={"If-None-Match": tag})
    assert answer.status_code == 304
    assert time.monotonic() - began >= 0.3


def test_waiting_without_a_tag_or_for_a_job_that_has_ended_answers_at_once(api: Api) -> None:
    claim = api.running_job()
    path = f"/v1/jobs/{claim.job.id}"
    began = time.monotonic()
    assert api.http.get(path, params={"wait": 30}).status_code == 200
    api.finish(claim)
    tag = api.http.get(path).headers["ETag"]
    assert api.http.get(path, params={"wait": 30}, headers={"If-None-Match": tag}).status_code == 304
    assert time.monotonic() - began < 10


def test_a_job_deleted_while_waited_for_is_not_found(api: Api) -> None:
    claim = api.running_job()
    path = f"/v1/jobs/{claim.job.id}"
    tag = api.http.get(path).headers["ETag"]

    def end() -> None:
        wait_until(lambda: api.running.config.app.state.service.hub.waiters, what="somebody waits")
        api.finish(claim)
        api.http.delete(path)

    thread = threading.Thread(target=end)
    thread.start()
    answer = api.http.get(path, params={"wait": 30}, headers={"If-None-Match": tag}, timeout=40)
    thread.join()
    assert answer.status_code in (200, 404)  # 200 where the answer was read between the two


@pytest.mark.parametrize("wait", ["-1", "61", "x", "nan", "inf", "1e9"])
def test_a_wait_outside_0_to_60_is_refused(any_api: Api, wait: str) -> None:
    any_api.worker()
    answer = any_api.http.get(f"/v1/jobs/{any_api.submit()['id']}", params={"wait": wait})
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_parameter")


def test_a_caller_that_hangs_up_frees_its_place(api: Api) -> None:
    api.worker()
    path = f"/v1/jobs/{api.submit()['id']}"
    tag = api.http.get(path).headers["ETag"]
    hub = api.running.config.app.state.service.hub
    with socket.create_connection(("127.0.0.1", api.config.port)) as connection:
        head = (
            f"GET {path}?wait=60 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.key}\r\nIf-None-Match: {tag}\r\n\r\n"
        )
        connection.sendall(head.encode())
        wait_until(lambda: hub.waiters == 1, what="it waits")
    wait_until(lambda: hub.waiters == 0, what="its place is free")


def test_a_change_needs_the_version_it_changes(api: Api) -> None:
    api.worker()
    path = f"/v1/jobs/{api.submit()['id']}"
    tag = api.http.get(path).headers["ETag"]
    absent = api.http.patch(path, json={"name": "new"})
    assert (absent.status_code, absent.json()["code"]) == (428, "precondition_required")
    changed = api.http.patch(path, json={"name": "new"}, headers={"If-Match": tag})
    assert (changed.status_code, changed.json()["name"]) == (200, "new")
    stale = api.http.patch(path, json={"name": "newer"}, headers={"If-Match": tag})
    assert (stale.status_code, stale.json()["code"]) == (412, "precondition_failed")
    weak = api.http.patch(path, json={"name": "newer"}, headers={"If-Match": f"W/{changed.headers['ETag']}"})
    assert weak.status_code == 412
    assert api.http.get(path).json()["name"] == "new"


def test_labels_priority_and_limits_can_be_changed(api: Api) -> None:
    api.worker()
    job = api.submit(labels={"old": "1"}, limits={"max_attempts": 9})
    change = {"labels": {"new": "2"}, "priority": -5, "limits": {"max_seconds": 10, "max_attempts": None}}
    changed = api.http.patch(f"/v1/jobs/{job['id']}", json=change, headers={"If-Match": "*"}).json()
    assert (changed["labels"], changed["priority"]) == ({"new": "2"}, -5)
    assert changed["limits"] == {
        "max_seconds": 10,
        "max_attempts": api.config.job_max_attempts,
        "max_memory_bytes": None,
        "retry_oom": False,
    }
    assert changed["version"] == job["version"] + 1
    assert [row["id"] for row in api.http.get("/v1/jobs", params={"label.new": "2"}).json()["data"]] == [job["id"]]


def test_every_fault_of_a_change_is_told_and_nothing_is_changed(api: Api) -> None:
    api.worker()
    job = api.submit()
    change = {"priority": 101, "limits": {"max_attempts": 0}, "config": {}, "name": "x"}
    answer = api.http.patch(f"/v1/jobs/{job['id']}", json=change, headers={"If-Match": "*"})
    assert answer.status_code == 422
    assert {fault["pointer"] for fault in answer.json()["errors"]} == {"/priority", "/limits/max_attempts", "/config"}
    assert api.job(job["id"]) == job


def test_a_job_that_has_ended_takes_a_name_and_keeps_its_limits(api: Api) -> None:
    claim = api.running_job()
    api.finish(claim)
    path = f"/v1/jobs/{claim.job.id}"
    assert api.http.patch(path, json={"name": "kept"}, headers={"If-Match": "*"}).json()["name"] == "kept"
    refused = api.http.patch(path, json={"name": "x", "priority": 1}, headers={"If-Match": "*"})
    assert (refused.status_code, refused.json()["code"]) == (409, "invalid_transition")
    assert api.job(claim.job.id)["name"] == "kept"
