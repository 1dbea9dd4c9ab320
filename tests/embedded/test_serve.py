import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import httpx
import psutil

from embedded.home import free_port
from embedded.lineage import bound_to_parent
from tests.stack import FAST
from tests.waiting import wait_until

START_SECONDS = 90.0
STOP_SECONDS = 40.0
JOB = {
    "name": "of-yesterday",
    "config": {"model": {"class_path": "models.vision.ImageClassifier"}, "data": {"class_path": "models.data.Digits"}},
}


class Serve:
    """`python -m embedded.serve` as a user starts it, its output in a file."""

    def __init__(self, home: Path, **environment: str) -> None:
        self.home = home
        self.port = free_port("127.0.0.1")
        self.log = home.parent / f"serve-{self.port}.log"
        own = {"LIGHTYARD_HOME": str(home), "LIGHTYARD_PORT": str(self.port)}
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "embedded.serve"],
                env=os.environ | FAST | own | environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=bound_to_parent(signal.SIGTERM),
            )

    @property
    def output(self) -> str:
        return self.log.read_text()

    def wait_until_up(self) -> None:
        wait_until(self._is_up, what="serve says that it is up", deadline_seconds=START_SECONDS)
        self.family = psutil.Process(self.process.pid).children(recursive=True)

    def _is_up(self) -> bool:
        assert self.process.poll() is None, self.output
        return "Lightyard is up" in self.output

    def client(self) -> httpx.Client:
        key = (self.home / "key").read_text().strip()
        return httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}", headers={"Authorization": f"Bearer {key}"}, trust_env=False
        )

    def titles(self) -> set[str]:
        return {" ".join(one.cmdline()).split(" ")[0].rpartition("/")[2] for one in self.family if one.is_running()}

    def nobody_is_left(self) -> bool:
        return not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in self.family)


def test_a_stack_is_one_of_its_kind_stops_at_ctrl_c_and_finds_its_jobs_again_and_nothing_outlives_its_kill(
    home: Path, broker_url: str
) -> None:
    first = Serve(home)
    first.wait_until_up()
    assert f"http://127.0.0.1:{first.port}" in first.output
    assert (home / "key").read_text().strip() in first.output
    assert str(home / "key") in first.output
    with first.client() as client:
        job_id = client.post("/v1/jobs", json=JOB).raise_for_status().json()["id"]

    second = Serve(home)
    assert second.process.wait(START_SECONDS) == 1
    assert f"process {first.process.pid} already serves {home}" in second.output

    first.process.send_signal(signal.SIGINT)
    assert first.process.wait(STOP_SECONDS) == 0, first.output
    assert first.nobody_is_left()
    assert "Traceback" not in first.output

    again = Serve(home, LIGHTYARD_BROKER_URL=broker_url)
    again.wait_until_up()
    with again.client() as client:
        assert client.get(f"/v1/jobs/{job_id}").json()["name"] == "of-yesterday"
    ours = {"lightyard-api", "lightyard-worker", "lightyard-forkserver"}
    wait_until(lambda: ours <= again.titles(), what="its processes bear their names")  # Celery gives the worker another
    assert not {"valkey-server", "redis-server"} & again.titles(), "a given broker is used instead of the embedded"
    again.process.kill()
    again.process.wait()
    wait_until(again.nobody_is_left, what="every process of the stack is gone", deadline_seconds=STOP_SECONDS)


def test_a_process_that_dies_is_named_and_ends_the_stack(home: Path) -> None:
    stack = Serve(home)
    api = wait_until(
        partial(find_child, stack.process.pid, "lightyard-api"), what="the API runs", deadline_seconds=START_SECONDS
    )
    assert api is not None
    api.kill()
    assert stack.process.wait(STOP_SECONDS) == 1
    assert "api ended by itself (killed by SIGKILL)" in stack.output
    assert "Its last lines:" in stack.output


def find_child(pid: int, title: str) -> psutil.Process | None:
    for child in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # one that has ended since
            if " ".join(child.cmdline()).startswith(title):
                return child
    return None


def test_a_port_in_use_stops_the_start_and_names_the_variable(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        stack = Serve(home, LIGHTYARD_PORT=str(server.getsockname()[1]))
        assert stack.process.wait(START_SECONDS) == 1
    assert "LIGHTYARD_PORT" in stack.output
    assert not (home / "lightyard.db").exists()


def test_a_database_that_cannot_be_migrated_stops_the_start_with_the_reason(home: Path) -> None:
    (home / "lightyard.db").write_text("this is no database, and long enough for SQLite to see that it is none" * 20)
    stack = Serve(home)
    assert stack.process.wait(START_SECONDS) == 1
    assert "the database could not be brought up to date" in stack.output
    assert "file is not a database" in stack.output


def test_a_stack_can_be_stopped_while_it_starts(home: Path) -> None:
    stack = Serve(home)
    wait_until(
        partial(find_child, stack.process.pid, "lightyard-api"), what="the API runs", deadline_seconds=START_SECONDS
    )
    stack.family = psutil.Process(stack.process.pid).children(recursive=True)
    stack.process.terminate()
    assert stack.process.wait(STOP_SECONDS) == 0, stack.output
    assert stack.nobody_is_left()


def test_a_stack_can_be_stopped_while_it_migrates(home: Path) -> None:
    stack = Serve(home)
    wait_until((home / "serve.lock").exists, what="it has its home", deadline_seconds=START_SECONDS)
    stack.process.send_signal(signal.SIGINT)
    assert stack.process.wait(STOP_SECONDS) == 0, stack.output
    assert "Traceback" not in stack.output
