"""Data modules: `prepare_data` once per machine, never twice at once, `setup` on each process, and what goes wrong."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.conftest import User
from tests.e2e.lightning.conftest import lesson
from tests.waiting import wait_until

ROWS = b"-1,-3\n-0.5,-1.5\n0.5,1.5\n1,3\n"
GATE_SECONDS = 60.0


@dataclass
class Site:
    """A web site with one file. It answers with `statuses`, then with the file, once the gate is open."""

    url: str = ""
    statuses: list[int] = field(default_factory=list)
    requests: int = 0
    at_once: int = 0
    most_at_once: int = 0
    gate: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)


@pytest.fixture
def site() -> Iterator[Site]:
    it = Site()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Silence: the test has the figures."""

        def do_GET(self) -> None:
            with it.lock:
                it.requests += 1
                it.at_once += 1
                it.most_at_once = max(it.most_at_once, it.at_once)
                status = it.statuses.pop(0) if it.statuses else 200
            if status == 200:
                it.gate.wait(GATE_SECONDS)
            body = ROWS if status == 200 else b""
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            with it.lock:
                it.at_once -= 1

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        it.url = f"http://127.0.0.1:{server.server_port}/rows.csv"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield it
        it.gate.set()
        server.shutdown()
        thread.join()


def config(url: str, folder: Path, **init_args: Any) -> dict[str, Any]:
    """The lesson, with data from that address."""
    read: dict[str, Any] = yaml.safe_load(lesson("downloaded"))
    read["data"]["init_args"] |= {"url": url, "folder": str(folder)} | init_args
    return read


def data_of(pupil: User, job_id: str, event_type: str) -> list[dict[str, Any]]:
    return [event["data"] for event in pupil.events(job_id) if event["type"] == event_type]


def test_data_are_prepared_then_set_up_and_events_say_so(pupil: User) -> None:
    job = pupil.ended(pupil.submit(lesson("downloaded")))
    assert job["status"] == "succeeded", job["reason"]
    (prepared,) = data_of(pupil, job["id"], "data_prepared")
    assert prepared.pop("seconds") < 30
    assert prepared.pop("waited_seconds") < 30
    assert prepared == {"class_path": "lessons.downloaded.Rows", "node": 0}
    told = data_of(pupil, job["id"], "data_set_up")
    assert told == [{"class_path": "lessons.downloaded.Rows", "stage": "fit", "rank": 0}]
    types = pupil.event_types(job["id"])
    assert (
        types.index("started") < types.index("data_prepared") < types.index("data_set_up") < types.index("first_step")
    )
    assert "fetching data:text/csv" in pupil.log(job["id"]) or "is there" in pupil.log(job["id"])


def test_two_jobs_on_one_machine_never_download_the_same_data_at_once(pupil: User, site: Site, tmp_path: Path) -> None:
    first = pupil.submit(config(site.url, tmp_path))
    wait_until(lambda: site.requests == 1, what="the first job downloads")
    wait_until(lambda: "fetching http" in pupil.log(first), what="what it prints is in its log, while it still does")
    assert pupil.job(first)["phase"] == "preparing"

    second = pupil.submit(config(site.url, tmp_path, batch_size=2))
    awaited = pupil.until_event(second, "data_awaited")
    assert awaited["data"] == {"class_path": "lessons.downloaded.Rows", "limit_seconds": 7200.0}
    pupil.client.post(f"/v1/jobs/{second}/cancel")
    assert pupil.ended(second)["reason"]["message"].startswith("stopped by request")  # at once, and not killed

    third = pupil.submit(config(site.url, tmp_path, batch_size=1))
    pupil.until_event(third, "data_awaited")
    seen = time.monotonic()
    wait_until(lambda: time.monotonic() - seen > 0.2, what="it waits for longer than one that need not")
    site.gate.set()
    assert [pupil.ended(job_id)["status"] for job_id in (first, third)] == ["succeeded"] * 2
    waited = [data_of(pupil, job_id, "data_prepared")[0]["waited_seconds"] for job_id in (first, third)]
    assert waited[0] < 0.2 < waited[1]
    assert (site.requests, site.most_at_once) == (1, 1)
    assert "is there" in pupil.log(third)


def test_what_prepare_data_raises_is_a_reason_of_its_own_and_final(pupil: User, site: Site, tmp_path: Path) -> None:
    site.statuses = [404]
    job = pupil.ended(pupil.submit(config(site.url, tmp_path)))
    assert (job["status"], job["attempt"], job["reason"]["code"]) == ("failed", 1, "data_error")
    assert job["reason"]["message"].startswith(
        "prepare_data of lessons.downloaded.Rows failed: HTTPError: HTTP Error 404"
    )
    assert "urllib.request.urlopen(self.url" in job["reason"]["traceback"]


def test_a_download_that_fails_for_the_moment_is_tried_again(pupil: User, site: Site, tmp_path: Path) -> None:
    site.statuses = [503]
    site.gate.set()
    job = pupil.ended(pupil.submit(config(site.url, tmp_path)))
    assert (job["status"], job["attempt"]) == ("succeeded", 2), job["reason"]
    (lost,) = data_of(pupil, job["id"], "attempt_lost")
    assert lost["reason"]["code"] == "data_error"
    assert "HTTP Error 503" in lost["reason"]["message"]
    assert [attempt["outcome"] for attempt in job["attempts"]] == ["data_error", "succeeded"]
