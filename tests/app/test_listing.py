from typing import Any

import pytest

from app import cursor
from core.errors import BadRequest
from tests.app.parts import Api


def ids(page: dict[str, Any]) -> list[str]:
    return [row["id"] for row in page["data"]]


def test_pages_by_cursor_hold_every_job_once_newest_first(api: Api) -> None:
    api.worker()
    made = [api.submit()["id"] for _ in range(5)]
    seen: list[str] = []
    params: dict[str, Any] = {"limit": 2}
    while True:
        page = api.http.get("/v1/jobs", params=params).json()
        seen += ids(page)
        if page["next_cursor"] is None:
            break
        params["cursor"] = page["next_cursor"]
    assert seen == sorted(made, reverse=True)
    oldest = api.http.get("/v1/jobs", params={"limit": 2, "sort": "created_at"}).json()
    assert ids(oldest) == sorted(made)[:2]


def test_a_page_that_ends_the_list_says_so(api: Api) -> None:
    api.worker()
    api.submit()
    assert api.http.get("/v1/jobs", params={"limit": 1}).json()["next_cursor"] is None


def test_jobs_are_filtered_by_status_name_and_labels(api: Api) -> None:
    api.worker()
    first = api.submit(name="a", labels={"team": "x", "run": "1"})
    second = api.submit(name="b", labels={"team": "x", "run": "2"})
    api.http.post(f"/v1/jobs/{first['id']}/cancel")

    def found(**params: Any) -> list[str]:
        return ids(api.http.get("/v1/jobs", params=params).json())

    assert found(status="queued") == [second["id"]]
    assert found(status=["queued", "cancelled"]) == found(status="queued,cancelled") == [second["id"], first["id"]]
    assert found(name="a") == [first["id"]]
    assert found(**{"label.team": "x"}) == [second["id"], first["id"]]
    assert found(**{"label.team": "x", "label.run": "1"}) == [first["id"]]
    assert found(**{"label.team": "y"}) == []


def test_each_queued_job_of_a_page_tells_its_place(api: Api) -> None:
    first, second, urgent = (api_job(api, priority) for priority in (0, 0, 5))
    page = api.http.get("/v1/jobs").json()["data"]
    assert {job["id"]: job["waiting"]["position"] for job in page} == {first: 1, second: 2, urgent: 0}


def api_job(api: Api, priority: int) -> str:
    api.worker()
    job_id: str = api.submit(priority=priority)["id"]
    return job_id


@pytest.mark.parametrize("limit", ["0", "201", "-1", "x", "1.5", ""])
def test_a_limit_outside_1_to_200_is_refused(any_api: Api, limit: str) -> None:
    answer = any_api.http.get("/v1/jobs", params={"limit": limit})
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_parameter")
    assert answer.json()["parameters"][0]["name"] == "limit"


@pytest.mark.parametrize("bad", ["x", "", "%00", "AAAA", "é", "a" * 5000, "bnVsbA"])
def test_a_cursor_that_is_none_is_refused(any_api: Api, bad: str) -> None:
    answer = any_api.http.get("/v1/jobs", params={"cursor": bad})
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_cursor")


def test_a_cursor_of_another_list_or_filter_is_refused(any_api: Api) -> None:
    any_api.worker()
    jobs = [any_api.submit(), any_api.submit()]
    found = any_api.http.get("/v1/jobs", params={"limit": 1}).json()["next_cursor"]
    for path, params in (
        ("/v1/jobs", {"status": "queued"}),
        ("/v1/jobs", {"sort": "created_at"}),
        ("/v1/workers", {}),
        ("/v1/queue", {}),
        (f"/v1/jobs/{jobs[0]['id']}/events", {}),
    ):
        answer = any_api.http.get(path, params={**params, "cursor": found})
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_cursor"), path


@pytest.mark.parametrize("after", [["x"], {"a": 1}, 5, None, "with\0nul"])
def test_a_forged_cursor_brings_no_value_of_another_kind(after: Any) -> None:
    with pytest.raises(BadRequest):
        cursor.decode(cursor.encode(after, "jobs"), "jobs", str)


@pytest.mark.parametrize(
    ("params", "hint"),
    [
        ({"staus": "queued"}, "'status'"),
        ({"limits": "3"}, "'limit'"),
        ({"wait": "3"}, "status"),
        ({"label": "x"}, "label"),
    ],
)
def test_an_unknown_query_parameter_is_named_with_what_was_meant(
    any_api: Api, params: dict[str, str], hint: str
) -> None:
    answer = any_api.http.get("/v1/jobs", params=params)
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["parameter"]) == (400, "unknown_parameter", next(iter(params)))
    assert hint in problem["detail"]


@pytest.mark.parametrize(
    "query",
    [
        "status=sleeping",
        "sort=name",
        "name=a%00b",
        "label.a%00=b",
        "status=",
        "&".join(f"label.{i}=x" for i in range(11)),
    ],
)
def test_a_filter_value_that_cannot_be_is_refused(any_api: Api, query: str) -> None:
    answer = any_api.http.get(f"/v1/jobs?{query}")
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_parameter")
