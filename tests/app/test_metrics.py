import math
from typing import Any

import pytest

from core.ids import new_id
from tests.app.parts import Api


def test_series_are_listed_in_figures_with_what_is_not_finite_as_strings(api: Api) -> None:
    claim = api.running_job()
    api.metric(claim, "train/loss", {0: 2.0, 5: 1.0, 9: math.nan})
    api.metric(claim, "acc", {0: 0.5, 1: math.inf})
    page = api.http.get(f"/v1/jobs/{claim.job.id}/metrics").json()
    assert page == {
        "data": [
            {
                "name": "acc",
                "count": 2,
                "first_step": 0,
                "last_step": 1,
                "last": "Infinity",
                "min": 0.5,
                "max": "Infinity",
            },
            {"name": "train/loss", "count": 3, "first_step": 0, "last_step": 9, "last": "NaN", "min": 1.0, "max": 2.0},
        ],
        "next_cursor": None,
    }


def test_all_series_are_listed_unless_a_limit_is_given(api: Api) -> None:
    claim = api.running_job()
    names = [f"m{number:02}" for number in range(30)]
    for name in names:
        api.metric(claim, name, {0: 1.0})
    path = f"/v1/jobs/{claim.job.id}/metrics"
    assert [row["name"] for row in api.http.get(path).json()["data"]] == names
    first = api.http.get(path, params={"limit": 20}).json()
    rest = api.http.get(path, params={"limit": 20, "cursor": first["next_cursor"]}).json()
    assert [row["name"] for row in first["data"] + rest["data"]] == names
    assert rest["next_cursor"] is None


def test_a_series_is_read_between_two_steps_under_a_name_with_slashes(api: Api) -> None:
    claim = api.running_job()
    api.metric(claim, "train/loss", {step: float(step) for step in range(10)})
    for name in ("train/loss", "train%2Floss"):
        answer = api.http.get(f"/v1/jobs/{claim.job.id}/metrics/{name}", params={"from_step": 3, "to_step": 5})
        series = answer.json()
        assert (series["name"], series["downsampled"]) == ("train/loss", False)
        assert [(point["step"], point["value"]) for point in series["points"]] == [(3, 3.0), (4, 4.0), (5, 5.0)]
        assert set(series["points"][0]) == {"step", "epoch", "value", "min", "max", "at"}


def test_a_long_series_is_downsampled_and_keeps_its_extremes(api: Api) -> None:
    claim = api.running_job()
    api.metric(claim, "loss", {step: 1000.0 if step == 37 else 1.0 for step in range(100)})
    series = api.http.get(f"/v1/jobs/{claim.job.id}/metrics/loss", params={"max_points": 10}).json()
    assert series["downsampled"]
    assert len(series["points"]) == 10
    assert max(point["max"] for point in series["points"]) == 1000.0


def test_nan_is_a_string_in_a_series(api: Api) -> None:
    claim = api.running_job()
    api.metric(claim, "loss", {0: math.nan, 1: -math.inf})
    points = api.http.get(f"/v1/jobs/{claim.job.id}/metrics/loss").json()["points"]
    assert [(point["value"], point["min"], point["max"]) for point in points] == [
        ("NaN", None, None),
        ("-Infinity", "-Infinity", "-Infinity"),
    ]


def test_an_unknown_series_tells_what_there_is(api: Api) -> None:
    claim = api.running_job()
    api.metric(claim, "val_loss", {0: 1.0})
    answer = api.http.get(f"/v1/jobs/{claim.job.id}/metrics/val_los")
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["known"]) == (404, "metric_not_found", ["val_loss"])
    assert "'val_loss'" in problem["detail"]


@pytest.mark.parametrize(
    "query", ["max_points=0", "max_points=10001", "max_points=x", "from_step=-1", f"to_step={2**70}", "from_step=1.5"]
)
def test_bounds_that_cannot_be_are_refused(any_api: Api, query: str) -> None:
    claim = any_api.running_job()
    any_api.metric(claim, "loss", {0: 1.0})
    answer = any_api.http.get(f"/v1/jobs/{claim.job.id}/metrics/loss?{query}")
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_parameter")


def test_series_of_many_jobs_come_in_one_answer(api: Api) -> None:
    worker_id = api.worker()
    claims = [(api.submit(), api.claim(worker_id))[1] for _ in range(2)]
    for number, claim in enumerate(claims):
        api.metric(claim, "loss", {0: float(number)})
    api.metric(claims[0], "acc", {0: 0.5})
    ids = [claim.job.id for claim in claims]
    answer = api.http.post("/v1/metrics:query", json={"job_ids": ids, "names": ["loss", "acc", "none"]})
    assert answer.status_code == 200, answer.text
    found = [(series["job_id"], series["name"], series["points"][0]["value"]) for series in answer.json()["data"]]
    assert found == [(ids[0], "loss", 0.0), (ids[0], "acc", 0.5), (ids[1], "loss", 1.0)]


@pytest.mark.parametrize(
    ("query", "pointers"),
    [
        ([], [""]),
        ({}, ["/job_ids", "/names"]),
        ({"job_ids": "x", "names": [1]}, ["/job_ids", "/names"]),
        ({"job_ids": ["x"], "names": ["a"], "max_point": 3}, ["/max_point"]),
        ({"job_ids": ["x"], "names": ["a"], "max_points": True}, ["/max_points"]),
        ({"job_ids": ["x"] * 101, "names": []}, ["/job_ids", "/names"]),
        ({"job_ids": ["x"] * 100, "names": ["a"] * 100, "max_points": 10000}, ["/max_points"]),
        ({"job_ids": ["nope", new_id("job")], "names": ["a"]}, ["/job_ids/0", "/job_ids/1"]),
    ],
)
def test_every_fault_of_a_query_is_told(any_api: Api, query: Any, pointers: list[str]) -> None:
    answer = any_api.http.post("/v1/metrics:query", json=query)
    assert answer.status_code == 422
    assert [fault["pointer"] for fault in answer.json()["errors"]] == pointers
