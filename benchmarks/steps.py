"""Training steps a second of a tiny module: as a job of the service, and by hand with no logger or one of Lightning's.

All run side by side, but one at a time: the others are stopped (SIGSTOP) while one has its second. So whatever slows
the machine for seconds slows all of them, and each is compared with what the others did a moment before and after. A
job has all that jobs have, its supervisor, which ships meanwhile, too.
"""

import contextlib
import os
import signal
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.by_hand import ByHand
from benchmarks.digits import service, submit
from benchmarks.environments import Missing, python_of
from benchmarks.figure import Figure, ratio_of_pairs
from benchmarks.timed import mapped
from tests.stack import Stack
from tests.waiting import wait_until

WARM_STEPS = 200
TURN_SECONDS, SETTLE_SECONDS = 0.5, 0.05
"""Each turn, and what of it is not counted: a process that was stopped finds its caches cold."""
ROUNDS = 12
RECOVERY_SECONDS, NEVER_SECONDS = 2.0, 1e9
SETTINGS = {"LIGHTYARD_CATALOG_MODULES": "models,benchmarks.timed", "LIGHTYARD_STANDBY": "false"}
OFTEN = "recovery on, every 2 s: 30 × as often as by default"
SELDOM = "recovery off"
HAND = "by hand"
LOGGERS = {
    "CSVLogger": {"save_dir": "."},
    "TensorBoardLogger": {"save_dir": "."},
    "MLFlowLogger": {"tracking_uri": "sqlite:///mlflow.db"},
}
"""Each in the folder of its run; MLflow refuses to write files."""
AIMS = {50: 0.97, 1: 0.85}
START_SECONDS = 120.0

Rates = Mapping[str, Sequence[float]]


def measure(folder: Path) -> list[Figure]:
    """The figures of group 3."""
    figures = []
    against_loggers = []
    packages, missing = _packages()
    for recovery, seconds in ((OFTEN, RECOVERY_SECONDS), (SELDOM, NEVER_SECONDS)):
        place = folder / recovery
        with service(place / "stack", **SETTINGS, LIGHTYARD_RECOVERY_INTERVAL_SECONDS=str(seconds)) as stack:
            for every, aim in AIMS.items():
                others = [name for name in LOGGERS if every == 1 and recovery == OFTEN and name not in missing]
                rates = _race(stack, place / str(every), packages, every, others)
                figures.append(_against_hand(rates, every, recovery, aim))
                if others:
                    against_loggers = [_against(rates, name, missing.get(name, "")) for name in LOGGERS]
    return figures + against_loggers


def _race(stack: Stack, folder: Path, packages: Sequence[Path], every: int, loggers: Sequence[str]) -> Rates:
    """Steps a second in each turn: of the job, by hand, and by hand with each of the loggers."""
    folder.mkdir()
    flags = {"log_every_n_steps": every}
    with ExitStack() as opened:
        hands = {name: opened.enter_context(ByHand(folder / f"with {name}", packages)) for name in loggers}
        hands[HAND] = opened.enter_context(ByHand(folder / "plain"))
        runners = {"job": Runner(folder / "job", lambda config: _job(stack, config, opened), flags)}
        for name, hand in hands.items():  # a process for each: it runs one config at a time
            logger = {"class_path": f"pytorch_lightning.loggers.{name}", "init_args": LOGGERS.get(name)}
            runners[name] = Runner(folder / name, hand.start, flags | {"logger": logger if name in LOGGERS else False})
            opened.callback(runners[name].kill)
        found: dict[str, list[float]] = {name: [] for name in runners}
        for number in range(ROUNDS):
            for name in runners if number % 2 == 0 else reversed(list(runners)):
                found[name].append(runners[name].turn())
    return found


class Runner:
    """One process that trains, when it is its turn; it is stopped once it has warmed up."""

    def __init__(self, counter: Path, start: Any, flags: dict[str, Any]) -> None:
        """`start` starts a config and returns the id of the process that trains; `flags` are the Trainer's."""
        model = {"class_path": "benchmarks.timed.Tiny", "init_args": {"counter": str(counter)}}
        self._counter = mapped(counter)
        trainer = {"max_epochs": 1, "enable_model_summary": False} | flags
        self._pid: int = start({"seed_everything": 1, "model": model, "trainer": trainer})
        wait_until(lambda: self._counter[0] > WARM_STEPS, what="it trains", deadline_seconds=START_SECONDS)
        os.kill(self._pid, signal.SIGSTOP)

    def turn(self) -> float:
        """Let it train for a while; steps a second."""
        os.kill(self._pid, signal.SIGCONT)
        time.sleep(SETTLE_SECONDS)
        began, before = time.perf_counter(), self._counter[0]
        time.sleep(TURN_SECONDS)
        steps, seconds = self._counter[0] - before, time.perf_counter() - began
        os.kill(self._pid, signal.SIGSTOP)
        return steps / seconds

    def kill(self) -> None:
        """End it."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)


def _job(stack: Stack, config: dict[str, Any], opened: ExitStack) -> int:
    """Submit it, to be cancelled in the end; returns the id of its trainer's process."""
    job_id = submit(stack, config)
    opened.callback(lambda: stack.client.post(f"/v1/jobs/{job_id}/cancel?force=true").raise_for_status())

    def started() -> int | None:
        events = stack.client.get(f"/v1/jobs/{job_id}/events", params={"limit": 200}).json()["data"]
        return next((event["data"]["pid"] for event in events if event["type"] == "started"), None)

    pid = wait_until(started, what="the job starts", deadline_seconds=START_SECONDS)
    assert pid is not None
    return pid


def _packages() -> tuple[list[Path], dict[str, str]]:
    """Where the loggers' own packages lie, and why some cannot be had, by the logger's name."""
    found, missing = [], {}
    for logger, peer in (("TensorBoardLogger", "tensorboard"), ("MLFlowLogger", "mlflow")):
        try:
            environment = python_of(peer).parent.parent
        except Missing as why:
            missing[logger] = str(why)
            continue
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        found.append(environment / "lib" / version / "site-packages")
    return found, missing


def _against_hand(rates: Rates, every: int, recovery: str, aim: float) -> Figure:
    return Figure(
        3,
        f"training steps of a tiny module that logs two values, log_every_n_steps {every}, {recovery}",
        "steps/s",
        rates["job"],
        aim=f"≥ {aim} ×",
        met=ratio_of_pairs(rates["job"], rates[HAND]) >= aim,
        peer="the same by hand, logger=False",
        theirs=rates[HAND],
        note=_NOTES[every],
        paired=True,
    )


def _against(rates: Rates, name: str, missing: str) -> Figure:
    theirs = rates.get(name, ())
    return Figure(
        3,
        "the same, log_every_n_steps 1",
        "steps/s",
        rates["job"],
        aim="> 1 ×",
        met=statistics.median(rates["job"]) > statistics.median(theirs) if theirs else None,
        peer=f"by hand with {name}",
        theirs=theirs,
        note=missing,
        paired=True,
    )


_NOTES = {
    50: "two callbacks more at each step, which Lightning calls; but no accumulator is copied at each `self.log`",
    1: "each value becomes a Python number (`.item()`) and a line of JSON at each step",
}
