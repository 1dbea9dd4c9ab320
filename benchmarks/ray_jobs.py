"""Ray Jobs: a head of one node, started here, that takes scripts over REST."""

import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil

from benchmarks.environments import python_of
from embedded.home import free_port
from embedded.lineage import bound_to_parent
from tests.waiting import wait_until

HOST = "127.0.0.1"
START_SECONDS = 90.0
STOP_SECONDS = 10.0
END_SECONDS = 60.0


class RayJobs:
    """The REST interface of a running head."""

    def __init__(self, address: str) -> None:
        self._http = httpx.Client(base_url=address, timeout=60.0, trust_env=False)

    def submit(self, command: Sequence[str], environment: Mapping[str, str]) -> str | None:
        """Have a command run; returns the id of its submission. None: it takes none yet, or has no process for it."""
        body = {"entrypoint": shlex.join(command), "runtime_env": {"env_vars": dict(environment)}}
        try:
            answer = self._http.post("/api/jobs/", json=body)
        except httpx.TransportError:
            return None
        return str(answer.json()["submission_id"]) if answer.status_code == httpx.codes.OK else None

    def wait(self, submission: str) -> None:
        """Return when a job has ended."""
        wait_until(
            lambda: self._http.get(f"/api/jobs/{submission}").json()["status"] in ("STOPPED", "SUCCEEDED", "FAILED"),
            what="the job of Ray has ended",
            deadline_seconds=END_SECONDS,
        )

    def stop(self, submission: str) -> None:
        """End a job; returns when it has ended."""
        self._http.post(f"/api/jobs/{submission}/stop").raise_for_status()
        self.wait(submission)

    def close(self) -> None:
        """Give the connection back."""
        self._http.close()


@contextmanager
def ray_jobs() -> Iterator[RayJobs]:
    """A head without GPUs, on ports of its own, gone at the end with all it has started. Raises `Missing`."""
    python = python_of("ray")
    # Its sockets lie in there, and the address of a socket has no room for a long path.
    folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
    port = free_port(HOST)
    command = [str(python.with_name("ray")), "start", "--head", "--block", "--disable-usage-stats"]
    command += ["--node-ip-address", HOST, "--port", str(free_port(HOST)), "--temp-dir", str(folder)]
    command += [
        "--dashboard-host",
        HOST,
        "--dashboard-port",
        str(port),
        "--ray-client-server-port",
        str(free_port(HOST)),
    ]
    command += ["--dashboard-agent-listen-port", str(free_port(HOST)), "--num-gpus", "0", "--no-monitor"]
    command += ["--object-store-memory", str(128 * 2**20)]
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with (folder / "head.log").open("wb") as log:
        head = subprocess.Popen(
            command,
            env=variables,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=bound_to_parent(),
        )
    jobs = RayJobs(f"http://{HOST}:{port}")

    def takes_jobs() -> str | None:
        assert head.poll() is None, (folder / "head.log").read_text()[-2000:]
        return jobs.submit(["true"], {})

    try:
        first = wait_until(takes_jobs, what="Ray takes jobs", deadline_seconds=START_SECONDS)
        jobs.wait(first)
        yield jobs
    finally:
        jobs.close()
        _end(head)
        shutil.rmtree(folder, ignore_errors=True)


def _end(head: subprocess.Popen[bytes]) -> None:
    """Kill the head and all that it has started, in sessions of their own too."""
    family: list[psutil.Process] = []
    if head.poll() is None:
        family = psutil.Process(head.pid).children(recursive=True)
        head.kill()
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    head.wait()
    psutil.wait_procs(family, timeout=STOP_SECONDS)
