import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from core.states import Status
from tests.app.parts import Api, running_api
from tests.waiting import wait_until


def messages(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """The server-sent events of a stream, as a browser reads them."""
    found: dict[str, Any] = {}
    for line in lines:
        if line.startswith(":"):
            yield {"comment": line}
        elif line:
            field, _, value = line.partition(": ")
            found[field] = value
        else:
            if "event" in found:
                yield {**found, "data": json.loads(found["data"])}
            found = {}


def test_events_tell_a_job_s_life_in_order(api: Api) -> None:
    claim = api.running_job()
    api.note(claim, "first_step")
    api.finish(claim)
    page = api.http.get(f"/v1/jobs/{claim.job.id}/events").json()
    assert [event["type"] for event in page["data"]] == ["created", "claimed", "first_step", "succeeded"]
    assert set(page["data"][0]) == {"id", "type", "at", "data"}
    assert page["data"][1]["data"]["worker"] == "box"
    assert page["next_cursor"] is None


def test_events_come_in_pages(api: Api) -> None:
    claim = api.running_job()
    for _ in range(5):
        api.note(claim, "stopped")
    path, seen, cursor = f"/v1/jobs/{claim.job.id}/events", [], None
    while True:
        page = api.http.get(path, params={"limit": 3} | ({"cursor": cursor} if cursor else {})).json()
        seen += [event["id"] for event in page["data"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert len(seen) == len(set(seen)) == 7
    assert seen == sorted(seen, key=int)


def test_a_stream_tells_events_as_they_happen_and_ends_with_done(api: Api) -> None:
    claim = api.running_job()
    with api.http.stream("GET", f"/v1/jobs/{claim.job.id}/events/stream", timeout=20) as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        stream = messages(answer.iter_lines())
        assert [next(stream)["event"] for _ in range(2)] == ["created", "claimed"]
        api.note(claim, "first_step")
        told = next(stream)
        assert (told["event"], told["data"]["type"], told["data"]["id"]) == ("first_step", "first_step", told["id"])
        api.finish(claim, Status.FAILED, {"code": "oom", "message": "out of memory"})
        assert next(stream)["data"]["data"] == {"reason": {"code": "oom", "message": "out of memory"}}
        assert next(stream)["event"] == "done"
        assert list(stream) == []


def test_last_event_id_resumes_a_stream(api: Api) -> None:
    claim = api.running_job()
    api.finish(claim)
    path = f"/v1/jobs/{claim.job.id}/events/stream"
    whole = list(messages(api.http.get(path).iter_lines()))
    rest = list(messages(api.http.get(path, headers={"Last-Event-ID": whole[0]["id"]}).iter_lines()))
    assert [event["event"] for event in rest] == ["claimed", "succeeded", "done"]
    assert rest == whole[1:]
    end = list(messages(api.http.get(path, headers={"Last-Event-ID": whole[-2]["id"]}).iter_lines()))
    assert [event["event"] for event in end] == ["done"]


@pytest.mark.parametrize("bad", ["x", "-1", "1.5", "9" * 40, "٣"])
def test_a_last_event_id_that_is_none_is_refused(any_api: Api, bad: str) -> None:
    any_api.worker()
    path = f"/v1/jobs/{any_api.submit()['id']}/events/stream"
    answer = any_api.http.get(path, headers={b"Last-Event-ID": bad.encode()})
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_last_event_id")


def test_a_reader_that_leaves_frees_its_place(api: Api) -> None:
    claim = api.running_job()
    hub = api.running.config.app.state.service.hub
    with api.http.stream("GET", f"/v1/jobs/{claim.job.id}/events/stream") as answer:
        reader = messages(answer.iter_lines())  # kept: a reader that is collected has hung up
        next(reader)
        assert hub.waiters == 1
    wait_until(lambda: hub.waiters == 0, what="its place is free")


def test_a_stream_of_a_job_that_is_deleted_is_done(api: Api) -> None:
    claim = api.running_job()
    path = f"/v1/jobs/{claim.job.id}"
    with api.http.stream("GET", f"{path}/logs/stream", timeout=20) as answer:
        lines = answer.iter_lines()
        next(lines)
        api.finish(claim)
        api.http.delete(path)
        assert list(messages(lines))[-1]["event"] == "done"


def test_silence_brings_comments_and_too_many_streams_are_refused(home: Any) -> None:
    settings = {"stream_keepalive_seconds": 0.1, "waiters_max_count": 1}
    with running_api(home, f"sqlite:///{home / 'l.db'}", **settings) as api:
        api.worker()
        path = f"/v1/jobs/{api.submit()['id']}/events/stream"
        with api.http.stream("GET", path, timeout=20) as answer:
            stream = messages(answer.iter_lines())
            assert next(stream)["event"] == "created"
            assert [next(stream)["comment"][0] for _ in range(2)] == [":", ":"]
            refused = api.http.get(path)
            assert (refused.status_code, refused.json()["code"]) == (503, "too_many_waiters")
            assert refused.headers["Retry-After"]


def test_a_server_that_stops_ends_its_streams_and_waits(home: Any) -> None:
    ended: list[str] = []

    def read(url: str, headers: dict[str, str]) -> None:
        with httpx.stream("GET", url, headers=headers, timeout=30, trust_env=False) as answer:
            answer.read()
            ended.append(f"{answer.status_code}")

    with running_api(home, f"sqlite:///{home / 'l.db'}") as api:
        api.worker()
        path = f"{api.url}/v1/jobs/{api.submit()['id']}"
        key = {"Authorization": f"Bearer {api.key}"}
        tag = api.http.get(path).headers["ETag"]
        threads = [
            threading.Thread(target=read, args=(f"{path}/events/stream", key)),
            threading.Thread(target=read, args=(f"{path}?wait=60", {**key, "If-None-Match": tag})),
        ]
        for thread in threads:
            thread.start()
        hub = api.running.config.app.state.service.hub
        wait_until(lambda: hub.waiters == 2, what="both wait")
        api.running.should_exit = True
        for thread in threads:
            thread.join(5)
        assert sorted(ended) == ["200", "304"]


def test_head_of_a_stream_ends_at_once(any_api: Api) -> None:
    any_api.worker()
    answer = any_api.http.head(f"/v1/jobs/{any_api.submit()['id']}/events/stream", timeout=5)
    assert (answer.status_code, answer.content) == (200, b"")
