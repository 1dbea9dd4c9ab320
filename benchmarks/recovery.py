"""From kill -9 to the next training step, against a loop that starts `python train.py` again from its last checkpoint.

`python -m benchmarks.recovery --kills 10`: a real stack with the settings of production (a lease of 15 s), two workers.
The clocks are the killer's at the kill and the trainer's own at its first step after it, on one machine.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from core.settings import Settings
from tests.stack import Backend, Stack
from tests.waiting import wait_until

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
PRODUCTION = ("lease_seconds", "reconcile_interval_seconds", "ring_after_seconds", "retry_backoff_seconds")
PRODUCTION += ("worker_silence_seconds", "ship_interval_seconds", "stop_grace_seconds")
RECOVERY_SECONDS = "2"
"""Shorter than in production, so that every kill finds a recovery checkpoint; it is no part of what is measured."""


def config() -> dict[str, Any]:
    """The digits example, for ever, with no checkpoints but those to go on from."""
    read: dict[str, Any] = yaml.safe_load((EXAMPLES / "digits.yaml").read_text())
    read["trainer"] |= {"max_epochs": 100_000, "callbacks": [], "enable_checkpointing": False}
    return read


def service(kills: int, folder: Path) -> tuple[list[float], list[float]]:
    """Seconds from the kill of a trainer, and of a whole worker, to the next training step."""
    defaults = Settings()
    settings = {f"LIGHTYARD_{name.upper()}": str(getattr(defaults, name)) for name in PRODUCTION}
    settings |= {"LIGHTYARD_RECOVERY_INTERVAL_SECONDS": RECOVERY_SECONDS, "LIGHTYARD_WORKER_SLOTS": "1"}
    settings |= {"LIGHTYARD_CATALOG_MODULES": "models"}
    trainers, workers = [], []
    with Stack(folder, Backend("embedded", "", ""), workers=2, settings=settings) as stack:
        for _ in range(kills):
            job = _submit(stack)
            pid = _event(stack, job, "started", 1)["data"]["pid"]
            killed_at = time.time()
            os.kill(pid, signal.SIGKILL)
            trainers.append(_seconds_to_step(stack, job, killed_at))
            _cancel(stack, job)
        for _ in range(kills):
            job = _submit(stack)
            worker = stack.client.get(f"/v1/jobs/{job}").json()["attempts"][0]["worker"]
            killed_at = time.time()
            stack.kill(worker)
            workers.append(_seconds_to_step(stack, job, killed_at))
            _cancel(stack, job)
            stack.start_worker()
            stack.wait_for_workers(2)
    return trainers, workers


def by_hand(kills: int, folder: Path) -> list[float]:
    """Seconds from the kill of the script to the next step, where a loop starts it again at once."""
    folder.mkdir(parents=True)
    checkpoint = {"class_path": "ModelCheckpoint", "init_args": {"save_last": True, "every_n_train_steps": 20}}
    hand = config()
    hand["trainer"] |= {"callbacks": [checkpoint], "enable_checkpointing": True}
    (folder / "config.yaml").write_text(yaml.safe_dump(hand))
    command = [sys.executable, "-m", "benchmarks.train_by_hand", "fit", "--config", str(folder / "config.yaml")]
    command += ["--trainer.default_root_dir", str(folder)]
    found = []
    for _ in range(kills):
        stamps = folder / "stamps"
        process = _start(command, stamps)
        wait_until(lambda: len(_stamps(stamps)) > 60, what="it trains", deadline_seconds=120)  # noqa: B023
        process.kill()
        process.wait()
        killed_at = time.time()
        stamps.unlink()
        again = _start([*command, "--ckpt_path", "last"], stamps)
        wait_until(lambda: _stamps(stamps), what="it trains again", deadline_seconds=120)  # noqa: B023
        found.append(_stamps(stamps)[0] - killed_at)
        again.kill()
        again.wait()
        stamps.unlink()
    return found


def _start(command: Sequence[str], stamps: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {"STAMPS": str(stamps)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _stamps(path: Path) -> list[float]:
    return [float(line) for line in path.read_text().splitlines()] if path.exists() else []


def _submit(stack: Stack) -> str:
    """A job that trains and has saved a recovery checkpoint."""
    job = str(stack.client.post("/v1/jobs", json={"config": config()}).json()["id"])
    _event(stack, job, "checkpoint_saved", 1)
    return job


def _cancel(stack: Stack, job: str) -> None:
    stack.client.post(f"/v1/jobs/{job}/cancel", params={"force": True})
    wait_until(
        lambda: stack.client.get(f"/v1/jobs/{job}").json()["status"] == "cancelled",
        what="cancelled",
        deadline_seconds=60,
    )


def _seconds_to_step(stack: Stack, job: str, killed_at: float) -> float:
    first_step = _event(stack, job, "first_step", 2)
    assert _event(stack, job, "resumed", 1)["data"]["resume"] == "exact"
    return datetime.fromisoformat(first_step["at"]).timestamp() - killed_at


def _event(stack: Stack, job: str, event_type: str, count: int) -> dict[str, Any]:
    """The event of a type of that number, once it is there."""

    def look() -> dict[str, Any] | None:
        data = stack.client.get(f"/v1/jobs/{job}/events", params={"limit": 200}).json()["data"]
        found = [event for event in data if event["type"] == event_type]
        return dict(found[count - 1]) if len(found) >= count else None

    return wait_until(look, what=f"{job}: {event_type} {count}", deadline_seconds=120) or {}


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    kills = parser.parse_args().kills
    with tempfile.TemporaryDirectory() as folder:
        hand = by_hand(min(kills, 5), Path(folder) / "hand")
        trainers, workers = service(kills, Path(folder) / "stack")
    lease = Settings().lease_seconds
    rows = [
        ("kill -9 of a trainer", trainers, "under 5 s"),
        (f"kill -9 of a worker, another up, lease {lease:g} s", workers, f"under {lease + 5:g} s"),
        ("by hand: kill -9 of python train.py, started again at once", hand, ""),
    ]
    sys.stdout.write("| from … to the next training step | kills | median s | min | max | by hand ÷ this | aim |\n")
    sys.stdout.write("| --- | --- | --- | --- | --- | --- | --- |\n")
    for name, seconds, aim in rows:
        median = statistics.median(seconds)
        ratio = statistics.median(hand) / median
        cells = [
            name,
            str(len(seconds)),
            f"{median:.2f}",
            f"{min(seconds):.2f}",
            f"{max(seconds):.2f}",
            f"{ratio:.2f}",
            aim,
        ]
        sys.stdout.write(f"| {' | '.join(cells)} |\n")


if __name__ == "__main__":
    main()
