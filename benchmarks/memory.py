"""Memory of each process of the service at work, against the same run as a script.

Resident memory (RSS) is what a process can see, shared pages and all; its private part (USS) is what would be free if
it ended: a trainer shares most of its pages with the fork server.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.digits import DEADLINE_SECONDS, Script, config, ended, service, submit
from benchmarks.figure import Figure, spread
from tests.stack import Stack
from tests.waiting import wait_until

JOBS_BEFORE = 3
RUNS = 2
REHEARSED_SECONDS = 2.0
"""After which a standby waits for its run."""
STEPS = 100
"""Of training, until memory is read."""
API_MB, WORKER_MB, TRAINER_TIMES = 150, 80, 1.05
IMPORTS = "import sys, benchmarks.train_by_hand, models.vision, models.data; print(flush=True); sys.stdin.read()"


@dataclass(frozen=True, slots=True)
class Read:
    """Memory of one process, in MB (10**6 bytes)."""

    resident: float
    private: float
    proportional: float
    """Its own, and its share of what it shares (PSS)."""

    @classmethod
    def of(cls, process: psutil.Process) -> "Read":
        """What it takes now."""
        full = process.memory_full_info()
        return cls(full.rss / 1e6, full.uss / 1e6, full.pss / 1e6)


def measure(folder: Path) -> list[Figure]:
    """A stack that has run some jobs and runs one, and the script with its imports done, and in training."""
    endless = config(max_epochs=100_000, callbacks=[], enable_checkpointing=False)
    read: dict[str, list[Read]] = {"api": [], "worker": [], "fork server": [], "standby": [], "trainer": []}
    imported: list[Read] = []
    training: list[Read] = []
    script = Script(folder / "script", endless)
    with service(folder / "stack") as stack:
        for _ in range(JOBS_BEFORE):
            ended(stack, submit(stack, config(max_epochs=1)))
        for _ in range(RUNS):
            time.sleep(REHEARSED_SECONDS)
            read["standby"].append(Read.of(_child_of_server(stack, "lightyard-standby")))
            with _trains(stack, endless):
                for name, process in _processes(stack).items():
                    read[name].append(Read.of(process))
            with script.running() as process:
                wait_until(
                    lambda: len(script.stamps()) > STEPS, what="the script trains", deadline_seconds=DEADLINE_SECONDS
                )
                training.append(Read.of(psutil.Process(process.pid)))
            imported.append(_imported())
    return [
        _figure("the API process", read["api"], API_MB),
        _figure("the worker process", read["worker"], WORKER_MB),
        Figure(
            12,
            "RSS of a trainer that stands by",
            "MB",
            [one.resident for one in read["standby"]],
            note=_private(read["standby"]),
        ),
        _against("the fork server, all imported", read["fork server"], "the script after its imports", imported, 1.0),
        _against(
            f"a trainer after {STEPS} steps", read["trainer"], "the script after as many", training, TRAINER_TIMES
        ),
    ]


def _figure(what: str, reads: Sequence[Read], most_mb: float) -> Figure:
    resident = [one.resident for one in reads]
    met = statistics.median(resident) <= most_mb
    return Figure(12, f"RSS of {what}", "MB", resident, f"≤ {most_mb:g} MB", met, note=_private(reads))


def _against(what: str, reads: Sequence[Read], peer: str, others: Sequence[Read], times: float) -> Figure:
    resident, theirs = [one.resident for one in reads], [one.resident for one in others]
    met = statistics.median(resident) <= times * statistics.median(theirs)
    note = f"{_private(reads)}; {_private(others)} of {peer}"
    return Figure(12, f"RSS of {what}", "MB", resident, f"≤ {times:g} ×", met, peer, theirs, note)


def _private(reads: Sequence[Read]) -> str:
    private = spread([one.private for one in reads], "MB")
    proportional = spread([one.proportional for one in reads], "MB")
    return f"private (USS) {private}, with its share of what is shared (PSS) {proportional}"


@contextmanager
def _trains(stack: Stack, job: dict[str, Any]) -> Iterator[None]:
    """While a job is some steps into its training."""
    job_id = submit(stack, job)

    def trains() -> bool:
        progress = stack.client.get(f"/v1/jobs/{job_id}").json()["progress"]
        return progress is not None and progress["global_step"] > STEPS

    wait_until(trains, what=f"{job_id} trains", deadline_seconds=DEADLINE_SECONDS)
    try:
        yield
    finally:
        stack.client.post(f"/v1/jobs/{job_id}/cancel", params={"force": True}).raise_for_status()
        wait_until(
            lambda: stack.client.get(f"/v1/jobs/{job_id}").json()["status"] == "cancelled",
            what=f"{job_id} has ended",
            deadline_seconds=DEADLINE_SECONDS,
        )


def _processes(stack: Stack) -> dict[str, psutil.Process]:
    """Those of the service, while one job trains on one device."""
    worker = psutil.Process(stack.processes["worker-1"].pid)
    api = psutil.Process(stack.processes["api"].pid)
    trainer = _child_of_server(stack, "lightyard-trainer")
    return {"api": api, "worker": worker, "fork server": _fork_server(worker), "trainer": trainer}


def _fork_server(worker: psutil.Process) -> psutil.Process:
    return next(child for child in worker.children() if child.cmdline()[:1] == ["lightyard-forkserver"])


def _child_of_server(stack: Stack, title: str) -> psutil.Process:
    server = _fork_server(psutil.Process(stack.processes["worker-1"].pid))
    return next(child for child in server.children() if title in child.cmdline()[0])


def _imported() -> Read:
    """The script's imports, and nothing more."""
    with subprocess.Popen([sys.executable, "-c", IMPORTS], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            return Read.of(psutil.Process(process.pid))
        finally:
            process.kill()
