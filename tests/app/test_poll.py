"""The poll: what is answered the short way is what would be answered the long way, and never older."""

import asyncio
import threading
from collections.abc import Mapping, Sequence

import httpx
import pytest

from app.stream import Hub
from core.job import Mark
from core.states import Status
from tests.app.parts import Api
from tests.app.test_events import messages
from tests.waiting import wait_until

SPELLINGS: list[tuple[str, dict[str, str]]] = [
    ("", {}),
    ("?wait=0", {}),
    ("?wait=0.0", {}),
    ("", {"Accept": "application/*"}),
    ("", {"Accept": "text/html, */*;q=0.1"}),
    ("", {"Authorization": "bearer {key}"}),
    ("", {"Authorization": "Bearer  {key}"}),
    ("", {"If-None-Match": '"another"'}),
]
"""Of one request; some go the short way, some the long one."""
FAULTS: list[tuple[str, dict[str, str], int, str]] = [
    ("?wait=61", {}, 400, "bad_parameter"),
    ("?wait=", {}, 400, "bad_parameter"),
    ("?wait=1&wiat=1", {}, 400, "unknown_parameter"),
    ("?x", {}, 400, "unknown_parameter"),
    ("", {"Accept": "text/html"}, 406, "not_acceptable"),
    ("", {"Accept": "*/*;q=0"}, 406, "not_acceptable"),
    ("", {"Authorization": "Bearer {key}x"}, 401, "unauthorized"),
    ("", {"Authorization": "Bearer"}, 401, "unauthorized"),
]
TOLD = ("ETag", "Content-Type", "Content-Length", "X-Request-Id")


@pytest.mark.parametrize("status", [200, 304])
def test_every_spelling_of_a_poll_has_the_same_answer(api: Api, status: int) -> None:
    path = f"/v1/jobs/{api.running_job().job.id}"
    first = api.http.get(path)
    tag = {"If-None-Match": f'{first.headers["ETag"]}, "another"'} if status == 304 else {}
    for method in ("GET", "HEAD"):
        answers = set()
        for query, headers in SPELLINGS:
            given = {name: value.format(key=api.key) for name, value in headers.items()} | tag
            answer = api.http.request(method, path + query, headers=given | {"X-Request-Id": "abc"})
            answers.add((answer.status_code, answer.content, *[answer.headers.get(name) for name in TOLD]))
        body = first.content if (status, method) == (200, "GET") else b""
        kind = ("application/json", str(len(first.content))) if status == 200 else (None, None)
        assert answers == {(status, body, first.headers["ETag"], *kind, "abc")}


def test_every_fault_of_a_poll_is_told(api: Api) -> None:
    path = f"/v1/jobs/{api.running_job().job.id}"
    api.http.get(path)  # the key is known from now on
    for query, headers, status, code in FAULTS:
        given = {name: value.format(key=api.key) for name, value in headers.items()}
        answer = api.http.get(path + query, headers=given)
        assert (answer.status_code, answer.json().get("code", "")) == (status, code), (query, headers)


def test_a_poll_tells_what_was_committed_before_it_came(api: Api) -> None:
    claim = api.running_job()
    path = f"/v1/jobs/{claim.job.id}"
    done = threading.Event()
    headers = dict(api.http.headers)

    def poll() -> None:
        with httpx.Client(base_url=api.url, headers=headers, trust_env=False) as http:
            tag = ""
            while not done.is_set():
                tag = http.get(path, headers={"If-None-Match": tag} if tag else {}).headers["ETag"]

    others = [threading.Thread(target=poll) for _ in range(4)]
    for other in others:
        other.start()
    try:
        tag = api.http.get(path).headers["ETag"]
        for step in range(30):
            api.note(claim, progress={"global_step": step})
            answer = api.http.get(path, headers={"If-None-Match": tag} if step % 2 else {})
            assert (answer.status_code, answer.json()["progress"]["global_step"]) == (200, step)
            assert answer.headers["ETag"] != tag
            tag = answer.headers["ETag"]
    finally:
        done.set()
        for other in others:
            other.join()


def test_all_who_wait_for_a_job_or_stream_it_hear_of_a_change(api: Api) -> None:
    claim = api.running_job()
    path = f"/v1/jobs/{claim.job.id}"
    tag = api.http.get(path).headers["ETag"]
    heard: list[str] = []

    def wait() -> None:
        answer = api.http.get(path, params={"wait": 30}, headers={"If-None-Match": tag}, timeout=40)
        heard.append(answer.json()["status"])

    def stream() -> None:
        with api.http.stream("GET", f"{path}/events/stream", timeout=40) as answer:
            heard.append([one["event"] for one in messages(answer.iter_lines())][-2])

    threads = [threading.Thread(target=target) for target in (wait, stream) for _ in range(5)]
    for thread in threads:
        thread.start()
    wait_until(lambda: api.running.config.app.state.service.hub.waiters == 10, what="all wait")
    api.finish(claim)
    for thread in threads:
        thread.join()
    assert heard == ["succeeded"] * 10
    assert api.running.config.app.state.service.hub.waiters == 0


def test_who_knows_more_than_the_last_look_found_is_not_woken_by_it() -> None:
    looked = asyncio.Event()
    version = 1

    def marks(job_ids: Sequence[str]) -> Mapping[str, Mark]:
        loop.call_soon_threadsafe(looked.set)
        return {job_id: Mark("proj", version, Status.RUNNING) for job_id in job_ids}

    async def never() -> dict[str, str]:
        await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def test() -> None:
        nonlocal loop, version
        loop = asyncio.get_running_loop()
        hub = Hub(marks, 0.001, 10)
        running = asyncio.create_task(hub.run())
        async with hub.watching("job", never) as watch:
            assert not await watch.changed(1, 0.05)
            await looked.wait()
            assert not await watch.changed(2, 0.05), "it was read at version 2 before the hub looked again"
            version = 3
            assert await watch.changed(2, 10)
        running.cancel()

    loop: asyncio.AbstractEventLoop
    asyncio.run(asyncio.wait_for(test(), 20))
