"""Errors as problem+json, whatever was wrong."""

import threading
from pathlib import Path

import httpx
import pytest

from app.main import create_app
from core.ids import new_id
from core.security import digest
from core.tables import api_keys, projects
from tests.app.parts import CONFIG, Api, running_api

MEMBERS = {"type", "title", "status", "detail", "instance", "code", "request_id"}


def problem(answer: httpx.Response) -> dict[str, object]:
    assert answer.headers["Content-Type"] == "application/problem+json"
    body: dict[str, object] = answer.json()
    assert set(body) >= MEMBERS
    assert body["status"] == answer.status_code
    assert body["request_id"] == answer.headers["X-Request-Id"]
    return body


def guarded(api: Api) -> list[tuple[str, str]]:
    paths = create_app(api.config).openapi()["paths"]
    return [
        (method.upper(), path.replace("{job_id}", new_id("job")).replace("{checkpoint_id}", new_id("ckpt")))
        for path, operations in paths.items()
        if path.startswith("/v1")
        for method in operations
    ]


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Basic x",
        "Bearer ly_wrong",
        "Bearer wrong",
        "Bearer ly_\xe9",
        "Bearer ly_" + "x" * 9999,
    ],
)
def test_every_call_under_v1_needs_a_key(any_api: Api, header: str | None) -> None:
    headers = {} if header is None else {b"Authorization": header.encode("latin-1")}
    with httpx.Client(base_url=any_api.url, trust_env=False) as http:
        for method, path in guarded(any_api):
            answer = http.request(method, path, headers=headers)
            assert (answer.status_code, problem(answer)["code"]) == (401, "unauthorized"), path
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/openapi.json"])
def test_what_stands_outside_v1_needs_no_key(any_api: Api, path: str) -> None:
    assert httpx.get(any_api.url + path, trust_env=False).status_code == 200


def test_another_project_s_things_are_not_found(api: Api, tmp_path: Path) -> None:
    claim = api.running_job()
    checkpoint_id = api.checkpoint(claim, b"x", tmp_path, is_last=True)
    job = f"/v1/jobs/{claim.job.id}"
    stranger = f"ly_{new_id('x')}"
    with api.database.write() as connection:
        project = {"id": new_id("proj"), "name": new_id("p"), "created_at": claim.job.created_at}
        connection.execute(projects.insert().values(**project))
        key = {"id": new_id("key"), "project_id": project["id"], "digest": digest(stranger)}
        connection.execute(api_keys.insert().values(**key, created_at=claim.job.created_at))
    below = (
        "events events/stream logs logs/stream metrics metrics/loss artifacts artifacts/x checkpoints checkpoints/last"
    )
    calls = [("GET", job)] + [("GET", f"{job}/{path}") for path in below.split()]
    calls += [("GET", f"/v1/checkpoints/{checkpoint_id}/content"), ("DELETE", f"/v1/checkpoints/{checkpoint_id}")]
    calls += [("DELETE", job), ("PATCH", job), ("PATCH", f"/v1/checkpoints/{checkpoint_id}")]
    calls += [("POST", f"{job}/{action}") for action in ("cancel", "retry", "pause", "resume", "checkpoints")]
    with httpx.Client(base_url=api.url, headers={"Authorization": f"Bearer {stranger}"}, trust_env=False) as http:
        for method, path in calls:
            body = {"pinned": True} if method == "PATCH" else None
            assert problem(http.request(method, path, json=body))["status"] == 404, (method, path)
        assert http.get("/v1/jobs").json()["data"] == []
        assert http.get("/v1/queue").json()["data"] == []
        (worker,) = http.get("/v1/workers").json()["data"]
        assert [(device["busy"], device["job_id"]) for device in worker["devices"]] == [(True, None), (False, None)]
        query = http.post("/v1/metrics:query", json={"job_ids": [claim.job.id], "names": ["loss"]})
        assert problem(query)["status"] == 422


@pytest.mark.parametrize(
    "bad", ["x", "job_", "job_01jd", f"ckpt_{'0' * 26}", "job_%00", "job_" + "é" * 26, "JOB_" + "0" * 26]
)
def test_what_is_no_job_id_is_not_found(any_api: Api, bad: str) -> None:
    for path in ("", "/events", "/logs", "/metrics", "/checkpoints/best", "/events/stream"):
        answer = any_api.http.get(f"/v1/jobs/{bad}{path}")
        assert problem(answer)["code"] == "job_not_found"


def test_an_unknown_path_and_a_trailing_slash_are_not_found(any_api: Api) -> None:
    for path in ("/", "/v1", "/v1/job", "/v1/jobs/", "/v2/jobs", "/docs", "/v1/jobs:validate/x"):
        assert problem(any_api.http.get(path))["code"] == "route_not_found", path


def test_a_method_that_a_path_does_not_have_tells_those_it_has(any_api: Api) -> None:
    answer = any_api.http.put("/v1/jobs")
    assert problem(answer)["code"] == "method_not_allowed"
    assert answer.headers["Allow"] == "GET, HEAD, POST"
    answer = any_api.http.post(f"/v1/jobs/{new_id('job')}")
    assert answer.headers["Allow"] == "DELETE, GET, HEAD, PATCH"
    assert any_api.http.head("/v1/jobs:validate").status_code == 405


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        ("*/*", 200),
        ("application/json", 200),
        ("application/*", 200),
        ("text/html, application/json;q=0.1", 200),
        ("application/problem+json", 200),
        ("application/json; charset=utf-8", 200),
        ("", 200),
        ("text/html", 406),
        ("application/json;q=0", 406),
        ("application/json;q=0, */*", 406),
        ("application/xml", 406),
    ],
)
def test_a_caller_that_accepts_nothing_we_answer_is_told_so(any_api: Api, accept: str, status: int) -> None:
    answer = any_api.http.get("/v1/jobs", headers={"Accept": accept})
    assert answer.status_code == status
    if status == 406:
        assert problem(answer)["code"] == "not_acceptable"


def test_accept_is_held_against_what_the_call_answers(any_api: Api) -> None:
    any_api.worker()
    path = f"/v1/jobs/{any_api.submit()['id']}"
    assert any_api.http.get(f"{path}/logs", headers={"Accept": "text/plain"}).status_code == 200
    assert any_api.http.get(f"{path}/logs", headers={"Accept": "application/json"}).status_code == 406
    assert any_api.http.get(path, headers={"Accept": "text/plain"}).status_code == 406


def test_head_answers_every_get_without_a_body(any_api: Api) -> None:
    any_api.worker()
    for path in ("/v1/jobs", f"/v1/jobs/{any_api.submit()['id']}", "/v1/catalog", "/healthz", "/openapi.json"):
        head, get = any_api.http.head(path), any_api.http.get(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["Content-Length"] == str(len(get.content))
        assert head.headers.get("ETag") == get.headers.get("ETag")


def test_a_request_id_is_taken_over_if_it_is_harmless(any_api: Api) -> None:
    assert any_api.http.get("/healthz", headers={"X-Request-Id": "abc-1.2_3"}).headers["X-Request-Id"] == "abc-1.2_3"
    for bad in ("", "a b", "x" * 101, 'a"b', "<script>"):
        given = any_api.http.get("/healthz", headers={"X-Request-Id": bad}).headers["X-Request-Id"]
        assert given.startswith("req_")
        assert given != bad


def test_without_a_database_calls_are_503_and_work_again_once_it_is_back(home: Path) -> None:
    database = home / "l.db"
    with running_api(home, f"sqlite:///{database}", database_timeout_seconds=0.2) as api:
        api.worker()
        job = api.submit()
        with api.database.write():  # nobody else can write now
            answer = api.http.post(f"/v1/jobs/{job['id']}/cancel")
            assert (answer.status_code, problem(answer)["code"]) == (503, "database_unavailable")
            assert answer.headers["Retry-After"]
            assert "sqlite" not in answer.text.lower()
        assert api.http.post(f"/v1/jobs/{job['id']}/cancel").status_code == 202


def test_an_error_that_nobody_foresaw_is_a_500_without_its_insides(any_api: Api) -> None:
    any_api.worker()
    job = any_api.submit()
    with any_api.database.write() as connection:
        connection.exec_driver_sql("UPDATE jobs SET status = 'dreaming'")
    answer = any_api.http.get(f"/v1/jobs/{job['id']}")
    body = problem(answer)
    assert (answer.status_code, body["code"]) == (500, "internal_error")
    assert "dreaming" not in answer.text
    assert "Traceback" not in answer.text


def test_requests_are_counted_by_route_for_prometheus(any_api: Api) -> None:
    any_api.worker()
    path = f"/v1/jobs/{any_api.submit()['id']}"
    any_api.http.get(path)
    any_api.http.head(path)
    any_api.http.get("/v1/nowhere")
    text = any_api.http.get("/metrics").text
    assert 'lightyard_http_requests_total{method="GET",route="/v1/jobs/{job_id}",status="200"}' in text
    assert 'lightyard_http_requests_total{method="HEAD",route="/v1/jobs/{job_id}",status="200"}' in text
    assert 'lightyard_http_requests_total{method="GET",route="unmatched",status="404"}' in text
    assert 'lightyard_jobs{status="queued"} 1.0' in text
    assert "job_0" not in text


def test_many_at_once_wait_for_connections_instead_of_failing(home: Path) -> None:
    with running_api(home, f"sqlite:///{home / 'l.db'}", database_pool_size=1) as api:
        api.worker()
        statuses: list[int] = []

        def call() -> None:
            for _ in range(3):
                statuses.append(api.http.post("/v1/jobs", json={"config": CONFIG}).status_code)
                statuses.append(api.http.get("/v1/jobs").status_code)

        threads = [threading.Thread(target=call) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(set(statuses)) == [200, 201]
