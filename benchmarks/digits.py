"""The job that is measured: the digits example, as a job of a real service and as a script by hand."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from core.settings import Settings
from embedded.lineage import bound_to_parent
from tests.stack import FAST, Backend, Stack
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parent.parent
DEADLINE_SECONDS = 120.0
CORES = {"OMP_NUM_THREADS": str(os.cpu_count())}
"""As many threads as there would be without it: the stacks of tests have one."""


def config(**flags: Any) -> dict[str, Any]:
    """The example with other flags of the Trainer."""
    read: dict[str, Any] = yaml.safe_load((ROOT / "examples" / "digits.yaml").read_text())
    read["trainer"] |= flags
    return read


def service(folder: Path, **settings: str) -> Stack:
    """An API and one worker with one slot, embedded, with the settings of production but for those that are given."""
    defaults = {}
    for name in (name.removeprefix("LIGHTYARD_").lower() for name in FAST if name.startswith("LIGHTYARD_")):
        value = Settings.model_fields[name].default
        defaults[f"LIGHTYARD_{name.upper()}"] = ",".join(value) if isinstance(value, tuple) else str(value)
    defaults |= {"LIGHTYARD_WORKER_SLOTS": "1", "LIGHTYARD_WORKER_DEVICES": "cpu"}
    return Stack(folder, Backend("embedded", "", ""), settings=defaults | CORES | settings)


def submit(stack: Stack, job: dict[str, Any]) -> str:
    """Submit a config; returns the job's id."""
    answer = stack.client.post("/v1/jobs", json={"config": job})
    answer.raise_for_status()
    return str(answer.json()["id"])


def ended(stack: Stack, job_id: str) -> dict[str, Any]:
    """The job once it has succeeded."""
    query = {"wait": 30}
    tag = ""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        answer = stack.client.get(f"/v1/jobs/{job_id}", params=query, headers={"If-None-Match": tag})
        tag = answer.headers["ETag"]
        if answer.status_code == 200:
            job: dict[str, Any] = answer.json()
            if job["status"] == "succeeded":
                return job
            assert job["status"] in ("queued", "running"), job
        assert time.monotonic() < deadline, f"{job_id} has not ended"


class Script:
    """`python train.py fit --config …` in a folder of its own, with the times at which its steps begin."""

    def __init__(self, folder: Path, job: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._config = folder / "config.yaml"
        self._config.write_text(yaml.safe_dump(job))
        self._folder = folder
        self.stamps_path = folder / "stamps"
        self.environment = CORES | {"STAMPS": str(self.stamps_path), "PYTHONPATH": str(ROOT)}
        """Variables that the script needs beyond those that are there."""

    @property
    def command(self) -> Sequence[str]:
        """The command line."""
        script = (sys.executable, "-m", "benchmarks.train_by_hand")
        return (*script, "fit", "--config", str(self._config), "--trainer.default_root_dir", str(self._folder))

    def stamps(self) -> list[float]:
        """When each step has begun so far, in unix seconds."""
        if not self.stamps_path.exists():
            return []
        return [float(line) for line in self.stamps_path.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def first_stamp(self) -> float:
        """When the first step began, once it has."""
        return wait_until(self.stamps, what="the script trains", deadline_seconds=DEADLINE_SECONDS)[0]

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        """Run it; killed at the end where it still runs."""
        self.stamps_path.unlink(missing_ok=True)
        process = subprocess.Popen(
            self.command,
            env=os.environ | self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=bound_to_parent(),
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def seconds(self) -> float:
        """How long it takes from its start to its end. Raises `AssertionError` where it fails."""
        began = time.time()
        with self.running() as process:
            status = process.wait(DEADLINE_SECONDS)
        assert status == 0, f"the script ended with {status}"
        return time.time() - began

    def seconds_to_step(self) -> float:
        """How long it takes from its start to its first step."""
        began = time.time()
        with self.running():
            return self.first_stamp() - began
