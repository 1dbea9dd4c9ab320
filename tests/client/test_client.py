import json
import math
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from lightyard import ApiError, BadAnswerError, Client, Fault, Retry, SpecError, UnreachableError, WaitTimeoutError

PLAIN = b"# kept as it is\nmodel: {class_path: A, init_args: {lr: 1e-3}}\n"


def test_importing_the_package_loads_nothing_of_the_command_line() -> None:
    code = "import sys, lightyard; print([m for m in ('typer', 'lightyard.render', 'torch') if m in sys.modules])"

    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=with_path())

    assert shown.stdout.strip() == "[]"


def with_path() -> dict[str, str]:
    return {"PYTHONPATH": ":".join(path for path in sys.path if path)}


def test_a_file_is_sent_byte_for_byte(client: Client, yard: Any, tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_bytes(PLAIN)

    job = client.submit(file)

    (sent,) = yard.seen("POST", "/v1/jobs")
    assert sent.body == PLAIN
    assert sent.headers["Content-Type"] == "application/yaml"
    assert job.status == "queued"
    assert job.raw["id"] == job.id
    assert not job.replayed


def test_a_file_with_overrides_and_options_is_sent_as_a_spec(client: Client, yard: Any, tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_bytes(PLAIN)

    client.submit(file, overrides=["trainer.max_epochs=3"], name="a", labels={"t": "v"}, limits={"max_attempts": 2})

    (sent,) = yard.seen("POST", "/v1/jobs")
    assert sent.headers["Content-Type"] == "application/json"
    assert json.loads(sent.body) == {
        "name": "a",
        "labels": {"t": "v"},
        "limits": {"max_attempts": 2},
        "config": {"model": {"class_path": "A", "init_args": {"lr": 0.001}}, "trainer": {"max_epochs": 3}},
    }


def test_labels_and_limits_are_added_to_those_of_the_file(client: Client, yard: Any) -> None:
    client.submit(b"{labels: {a: x, b: y}, limits: {max_seconds: 5}, config: {}}", labels={"b": "z"}, limits={})

    (sent,) = yard.seen("POST", "/v1/jobs")
    assert json.loads(sent.body) == {"labels": {"a": "x", "b": "z"}, "limits": {"max_seconds": 5}, "config": {}}


def test_a_mapping_is_submitted_and_left_alone(client: Client, yard: Any) -> None:
    config = {"model": {"class_path": "A"}, "trainer": {"max_epochs": 1}}

    client.submit(config, overrides={"trainer.max_epochs": 2})

    assert config["trainer"] == {"max_epochs": 1}
    (sent,) = yard.seen("POST", "/v1/jobs")
    assert json.loads(sent.body)["config"]["trainer"] == {"max_epochs": 2}


def test_a_missing_file_is_named_before_anything_is_sent(client: Client, yard: Any) -> None:
    with pytest.raises(SpecError, match=r"nowhere\.yaml"):
        client.submit("nowhere.yaml")
    assert yard.requests == []


def test_a_lost_answer_makes_one_job(client: Client, yard: Any) -> None:
    yard.mishaps = ["drop after", "drop"]

    job = client.submit({"model": {}})

    sent = yard.seen("POST", "/v1/jobs")
    assert len(sent) == 3
    assert len({one.headers["Idempotency-Key"] for one in sent}) == 1
    assert list(yard.jobs) == [job.id]
    assert job.replayed


def test_two_submits_make_two_jobs(client: Client, yard: Any) -> None:
    client.submit({"model": {}})
    client.submit({"model": {}})

    assert len(yard.jobs) == 2


def test_a_key_of_the_callers_own_makes_one_job_across_calls(client: Client, yard: Any) -> None:
    first = client.submit({"model": {}}, idempotency_key="mine")
    again = client.submit({"model": {}}, idempotency_key="mine")

    assert (first.id, first.replayed, again.replayed) == (again.id, False, True)
    with pytest.raises(ApiError) as refusal:
        client.submit({"model": {"other": 1}}, idempotency_key="mine")
    assert (refusal.value.status, refusal.value.code) == (422, "idempotency_key_reused")


def test_a_service_that_asks_to_wait_is_left_alone_for_so_long(client: Client, yard: Any) -> None:
    yard.mishaps = [(503, {"Retry-After": "1"}, "{}")]
    job_id, began_at = yard.add_job(), time.monotonic()

    client.job(job_id)

    assert time.monotonic() - began_at >= 1.0


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_what_says_not_now_is_tried_again(client: Client, yard: Any, status: int) -> None:
    yard.mishaps = [(status, {}, "<html>"), (status, {}, "")]
    job_id = yard.add_job()

    assert client.job(job_id).id == job_id
    assert len(yard.requests) == 3


def test_a_wait_beyond_the_budget_is_not_begun(client: Client, yard: Any) -> None:
    yard.mishaps = [(429, {"Retry-After": "3600"}, '{"code": "rate_limited", "detail": "Later."}')]
    began_at = time.monotonic()

    with pytest.raises(ApiError) as refusal:
        client.job(yard.add_job())

    assert time.monotonic() - began_at < 1
    assert (refusal.value.code, refusal.value.retry_after_seconds) == ("rate_limited", 3600)


@pytest.mark.parametrize("status", [400, 404, 409, 422, 500])
def test_a_refusal_is_not_repeated(client: Client, yard: Any, status: int) -> None:
    yard.mishaps = [(status, {}, "")]

    with pytest.raises(ApiError) as refusal:
        client.job(yard.add_job())

    assert refusal.value.status == status
    assert len(yard.requests) == 1


def test_a_refusal_carries_every_fault(client: Client, yard: Any) -> None:
    yard.faults = [
        {"pointer": "/config/model/init_args/l", "code": "unknown_argument", "message": 'did you mean "lr"?'},
        {"pointer": "/name", "code": "wrong_type", "message": "a name is text"},
    ]

    with pytest.raises(ApiError) as refusal:
        client.submit({"model": {}})

    assert refusal.value.faults == (
        Fault("/config/model/init_args/l", "unknown_argument", 'did you mean "lr"?'),
        Fault("/name", "wrong_type", "a name is text"),
    )
    assert refusal.value.request_id == "req_1"
    assert refusal.value.detail == "The spec is wrong."


def test_nobody_there_is_told_with_the_address(dead_url: str) -> None:
    retry = Retry(budget_seconds=0.1, first_wait_seconds=0.01)
    with Client(dead_url, "k", retry=retry) as client, pytest.raises(UnreachableError, match=dead_url):
        client.job("job_1")


def test_something_else_that_answers_is_told(client: Client, yard: Any) -> None:
    yard.mishaps = [(200, {}, "<html>hello</html>"), (200, {}, "{}"), (308, {"Location": "https://x.example.org"}, "")]
    job_id = yard.add_job()

    with pytest.raises(BadAnswerError, match="is the address right"):
        client.job(job_id)
    with pytest.raises(BadAnswerError, match="no job"):
        client.job(job_id)
    with pytest.raises(BadAnswerError, match=r"moved to https://x\.example\.org"):
        client.job(job_id)


def test_a_wrong_key_is_refused(yard: Any) -> None:
    with Client(yard.url, "wrong") as client, pytest.raises(ApiError) as refusal:
        client.job("job_1")
    assert refusal.value.status == 401


def test_an_empty_id_is_no_id(client: Client, yard: Any) -> None:
    with pytest.raises(ValueError, match="empty"):
        client.job("")
    assert yard.requests == []


def test_an_id_cannot_lead_out_of_its_place(client: Client, yard: Any) -> None:
    with pytest.raises(ApiError) as refusal:
        client.job("../catalog?x=1")

    assert refusal.value.status == 404
    assert yard.requests[0].path == "/v1/jobs/../catalog?x=1"
    assert yard.requests[0].query == {}


def test_all_pages_of_the_jobs_are_iterated(client: Client, yard: Any) -> None:
    ids = [yard.add_job(status="failed" if number % 2 else "queued") for number in range(250)]

    assert [job.id for job in client.jobs()] == ids[::-1]
    assert [job.id for job in client.jobs(status="failed", limit=3)] == ids[:-7:-2]
    assert [request.query["limit"] for request in yard.requests] == ["100", "100", "100", "3"]


def test_labels_and_name_narrow_the_list(client: Client, yard: Any) -> None:
    list(client.jobs(name="a", labels={"team": "vision"}))

    assert yard.requests[0].query == {"limit": "100", "name": "a", "label.team": "vision"}


def test_a_job_is_read_with_numbers_that_are_not_finite_and_fields_unknown(client: Client, yard: Any) -> None:
    job_id = yard.add_job(
        status="failed",
        reason={"code": "diverged", "message": "The loss is not finite.", "traceback": None},
        progress={"epoch": 1, "global_step": 5, "fraction": 0.5, "eta_seconds": "Infinity"},
        metrics={"loss": "NaN", "top": "-Infinity", "acc": 0.5},
        attempts=[{"number": 1, "worker": "w", "outcome": "failed", "resume": "exact", "new_field": 1}],
        created_at="2026-01-02T03:04:05.678Z",
        a_field_of_next_year={"x": 1},
    )

    job = client.job(job_id)

    assert math.isnan(job.metrics["loss"])
    assert (job.metrics["top"], job.metrics["acc"]) == (-math.inf, 0.5)
    assert job.progress.eta_seconds == math.inf
    assert job.ended
    assert not job.succeeded
    assert job.reason is not None
    assert job.reason.code == "diverged"
    assert job.attempts[0].worker == "w"
    assert job.created_at is not None
    assert job.created_at.utcoffset() is not None
    assert job.raw["a_field_of_next_year"] == {"x": 1}


def test_a_watched_job_is_seen_at_each_change_and_asked_for_without_haste(client: Client, yard: Any) -> None:
    job_id = yard.add_job()
    changes = iter([{"status": "running", "phase": "training"}, {"phase": "validating"}, {"status": "succeeded"}])

    seen = []
    for job in client.watch(job_id):
        seen.append((job.status, job.phase))
        if not job.ended:
            threading.Timer(0.1, yard.change, [job_id], next(changes)).start()

    assert seen == [("queued", None), ("running", "training"), ("running", "validating"), ("succeeded", "validating")]
    first, *polls = yard.seen("GET", f"/v1/jobs/{job_id}")
    assert first.query == {}
    assert [poll.headers["If-None-Match"] for poll in polls] == ['"1"', '"2"', '"3"']
    assert all(poll.query == {"wait": "30"} for poll in polls)


def test_a_service_that_does_not_hold_a_poll_is_not_overrun(client: Client, yard: Any) -> None:
    job_id = yard.add_job()
    yard.mishaps = [None] + [(304, {}, "")] * 1000

    with pytest.raises(WaitTimeoutError, match="still queued"):
        client.wait(job_id, timeout_seconds=1.5)

    assert len(yard.requests) <= 4


def test_a_job_is_watched_through_an_absence_of_the_service(client: Client, yard: Any) -> None:
    job_id = yard.add_job(status="running")
    yard.mishaps = [None, "drop", (503, {}, ""), "drop"]
    threading.Timer(0.3, yard.change, [job_id], {"status": "succeeded"}).start()

    assert client.wait(job_id).succeeded


def test_waiting_for_an_ended_job_is_one_request(client: Client, yard: Any) -> None:
    assert client.wait(yard.add_job(status="cancelled")).status == "cancelled"
    assert len(yard.requests) == 1


def test_pausing_resuming_and_saving_answer_with_the_job_and_what_is_asked_of_it(client: Client, yard: Any) -> None:
    job_id = yard.add_job(status="running")

    paused = client.pause(job_id)
    saving = client.request_checkpoint(job_id)
    resumed = client.resume(job_id)

    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert (paused.pause_requested_at, paused.checkpoint_requested_at) == (at, None)
    assert saving.checkpoint_requested_at == at.replace(second=6)
    assert (resumed.status, resumed.pause_requested_at) == ("queued", None)
    assert len({paused.etag, saving.etag, resumed.etag}) == 3
    for action in ("pause", "checkpoints", "resume"):
        assert len(yard.seen("POST", f"/v1/jobs/{job_id}/{action}")) == 1


def test_cancel_answers_with_the_job(client: Client, yard: Any) -> None:
    job_id = yard.add_job()

    assert client.cancel(job_id, force=True).status == "cancelled"
    assert yard.requests[0].query == {"force": "true"}


def test_a_validation_tells_every_fault(client: Client, yard: Any) -> None:
    assert client.validate({"model": {}}).valid

    yard.faults = [{"pointer": "/config", "code": "missing", "message": "no model"}]
    validation = client.validate({"model": {}})

    assert not validation.valid
    assert validation.faults == (Fault("/config", "missing", "no model"),)


def test_metrics_series_and_events_are_read(client: Client, yard: Any) -> None:
    job_id = yard.add_job()
    root = f"/v1/jobs/{job_id}"
    yard.documents = {
        f"{root}/metrics": {"data": [{"name": "val/loss", "count": 2, "last": "NaN", "min": 0.1, "max": 0.2}]},
        f"{root}/metrics/val/loss": {
            "name": "val/loss",
            "points": [{"step": 0, "epoch": 0, "value": 0.2}, {"step": 5, "epoch": 1, "value": "Infinity"}],
            "downsampled": False,
        },
        f"{root}/events": {
            "data": [{"id": "1", "type": "created", "at": "2026-01-02T03:04:05Z", "data": {}}],
            "next_cursor": None,
        },
    }

    (metric,) = client.metrics(job_id)
    series = client.series(job_id, "val/loss", max_points=10)
    (event,) = client.events(job_id)

    assert (metric.name, metric.count, metric.min) == ("val/loss", 2, 0.1)
    assert [(point.step, point.value) for point in series.points] == [(0, 0.2), (5, math.inf)]
    assert yard.requests[1].query == {"max_points": "10"}
    assert event.type == "created"


def test_a_list_without_rows_is_a_bad_answer(client: Client, yard: Any) -> None:
    yard.documents = {"/v1/workers": {"rows": []}}

    with pytest.raises(BadAnswerError, match="data"):
        client.workers()
