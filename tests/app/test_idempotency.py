import threading
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from core.states import Status
from core.tables import catalogs, workers
from tests.app.parts import CONFIG, Api


def post(api: Api, key: str, **body: Any) -> httpx.Response:
    return api.http.post("/v1/jobs", json={"config": CONFIG, **body}, headers={"Idempotency-Key": key})


def test_the_same_key_and_body_answer_the_same_bytes_and_make_one_job(api: Api) -> None:
    api.worker()
    first, second = post(api, "k1"), post(api, "k1")
    assert (first.status_code, second.status_code) == (201, 201)
    assert second.content == first.content
    for header in ("Location", "ETag", "Content-Type"):
        assert second.headers[header] == first.headers[header]
    assert "Idempotent-Replayed" not in first.headers
    assert second.headers["Idempotent-Replayed"] == "true"
    assert api.count() == 1


def test_the_same_key_with_another_body_is_refused(api: Api) -> None:
    api.worker()
    post(api, "k1")
    answer = post(api, "k1", name="other")
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")
    assert api.count() == 1


def test_a_replay_needs_no_worker_and_no_catalogue(api: Api) -> None:
    api.worker()
    first = post(api, "k1")
    with api.database.write() as connection:
        connection.execute(workers.delete())
        connection.execute(catalogs.delete())
    assert post(api, "k1").content == first.content


def test_a_refused_submission_may_be_repaired_under_its_key(api: Api) -> None:
    api.worker()
    assert post(api, "k1", priority=1000).status_code == 422
    assert post(api, "k1", priority=10).status_code == 201


def test_many_at_once_under_one_key_make_one_job(api: Api) -> None:
    api.worker()
    answers: list[httpx.Response] = []
    threads = [threading.Thread(target=lambda: answers.append(post(api, "k1"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert sum("Idempotent-Replayed" not in answer.headers for answer in answers) == 1
    assert api.count() == 1


def test_a_retry_takes_a_key_too(api: Api) -> None:
    claim = api.running_job()
    api.finish(claim, Status.FAILED)
    path = f"/v1/jobs/{claim.job.id}/retry"
    first, second = (api.http.post(path, headers={"Idempotency-Key": "k"}) for _ in range(2))
    assert first.json()["id"] == second.json()["id"]
    assert api.count() == 2


@pytest.mark.parametrize("key", ["", "x" * 256, "café", "a\tb"])
def test_a_key_that_is_none_is_refused(any_api: Api, key: str) -> None:
    any_api.worker()
    answer = any_api.http.post("/v1/jobs", json={"config": CONFIG}, headers={b"Idempotency-Key": key.encode()})
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_idempotency_key")
    assert any_api.count() == 0


def test_a_failure_after_the_insert_leaves_neither_job_nor_key(api: Api) -> None:
    api.worker()
    with api.database.write() as connection:  # where the answer is made, the workers are counted
        connection.execute(text("ALTER TABLE workers RENAME TO hidden"))
    try:
        assert post(api, "k1").status_code >= 500
    finally:
        with api.database.write() as connection:
            connection.execute(text("ALTER TABLE hidden RENAME TO workers"))
    assert api.count() == 0
    answer = post(api, "k1")
    assert (answer.status_code, "Idempotent-Replayed" in answer.headers) == (201, False)
