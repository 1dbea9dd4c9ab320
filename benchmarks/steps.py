"""Training steps a second of a tiny module: as a job of the service, and by hand with no logger or one of Lightning's.

Steps are timed within the loop, the first ones left out. Runs are taken by turns, each in a fresh fork of a process
that has imported all; a job has all that jobs have, its supervisor, which ships meanwhile, too.
"""

import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.by_hand import ByHand
from benchmarks.digits import ended, service, submit
from benchmarks.environments import Missing, python_of
from benchmarks.figure import Figure
from tests.stack import Stack

WARM_STEPS = 300
STEPS = 1000
LOGGER_STEPS = {"CSVLogger": (200, 300), "TensorBoardLogger": (200, 300), "MLFlowLogger": (20, 80)}
"""Left out, and timed: the loggers take longer for a step."""
ROUNDS, ROUNDS_OFF, ROUNDS_MLFLOW = 6, 4, 2
RECOVERY_SECONDS, NEVER_SECONDS = "2", "1000000000"
OFTEN = "recovery on, every 2 s: 30 × as often as by default, so that saves fall among the steps"
SELDOM = "recovery off"
LOGGERS = {
    "CSVLogger": {"save_dir": "."},
    "TensorBoardLogger": {"save_dir": "."},
    "MLFlowLogger": {"tracking_uri": "sqlite:///../mlflow.db"},
}
"""Each in the folder of its run; MLflow refuses to write files, and its tables, which take long to make, are shared."""
AIMS = {50: 0.97, 1: 0.85}

Samples = dict[str, list[float]]


def measure(folder: Path) -> list[Figure]:
    """The figures of group 3."""
    runs = Runs(folder)
    samples: Samples = {}
    missing: dict[str, str] = {}
    with ExitStack() as open_things:
        plain = open_things.enter_context(ByHand(folder / "plain"))
        packages, missing = _packages()
        logging = open_things.enter_context(ByHand(folder / "logging", packages))
        stack = open_things.enter_context(
            service(
                folder / "stack",
                LIGHTYARD_CATALOG_MODULES="models,benchmarks.timed",
                LIGHTYARD_RECOVERY_INTERVAL_SECONDS=RECOVERY_SECONDS,
            )
        )
        ways: dict[str, Callable[[], float]] = {}
        for every in AIMS:
            ways |= _pair(runs, plain, stack, every, OFTEN)
        loggers = {name: _with_logger(runs, logging, name) for name in LOGGERS if name not in missing}
        seldom = {name: way for name, way in loggers.items() if name == "MLFlowLogger"}
        _by_turns(ways | {name: way for name, way in loggers.items() if name not in seldom}, ROUNDS, samples)
        _by_turns(seldom, ROUNDS_MLFLOW, samples)
        stack.terminate("worker-1")
        stack.start_worker({"LIGHTYARD_RECOVERY_INTERVAL_SECONDS": NEVER_SECONDS})
        stack.wait_for_workers(1)
        ways = {}
        for every in AIMS:
            ways |= _pair(runs, plain, stack, every, SELDOM)
        _by_turns(ways, ROUNDS_OFF, samples)
    return [*_against_hand(samples), *_against_loggers(samples, missing)]


class Runs:
    """Runs of the module, each with a file of its own for its stamps."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0

    def steps_per_second(self, run: Callable[[dict[str, Any]], None], warm: int, steps: int, **flags: Any) -> float:
        """Run a config with these flags of the Trainer; steps a second, the first `warm` left out."""
        self._count += 1
        stamps = self._folder / f"stamps-{self._count}"
        arguments = {"stamps": str(stamps), "first": warm, "last": warm + steps}
        model = {"class_path": "benchmarks.timed.Tiny", "init_args": arguments}
        run({"seed_everything": 1, "model": model, "trainer": {"max_epochs": 1} | flags})
        seconds: float = json.loads(stamps.read_text())[0]
        return steps / seconds


def _pair(runs: Runs, by_hand: ByHand, stack: Stack, every: int, recovery: str) -> dict[str, Callable[[], float]]:
    """By hand and as a job, with `log_every_n_steps` as given."""

    def job(config: dict[str, Any]) -> None:
        ended(stack, submit(stack, config))

    return {
        f"hand {every} {recovery}": lambda: runs.steps_per_second(
            by_hand.run, WARM_STEPS, STEPS, log_every_n_steps=every, logger=False
        ),
        f"job {every} {recovery}": lambda: runs.steps_per_second(job, WARM_STEPS, STEPS, log_every_n_steps=every),
    }


def _with_logger(runs: Runs, by_hand: ByHand, name: str) -> Callable[[], float]:
    logger = {"class_path": f"pytorch_lightning.loggers.{name}", "init_args": LOGGERS[name]}
    return lambda: runs.steps_per_second(by_hand.run, *LOGGER_STEPS[name], log_every_n_steps=1, logger=logger)


def _by_turns(ways: Mapping[str, Callable[[], float]], rounds: int, samples: Samples) -> None:
    """Each way once a round, in an order that turns round each time: what drifts, drifts for all."""
    names = list(ways)
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            samples.setdefault(name, []).append(ways[name]())


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


def _against_hand(samples: Samples) -> list[Figure]:
    figures = []
    for recovery in (OFTEN, SELDOM):
        for every, aim in AIMS.items():
            ours, theirs = samples[f"job {every} {recovery}"], samples[f"hand {every} {recovery}"]
            figures.append(
                Figure(
                    3,
                    f"training steps of a tiny module that logs two values, log_every_n_steps {every}, {recovery}",
                    "steps/s",
                    ours,
                    aim=f"≥ {aim} ×",
                    met=statistics.median(ours) >= aim * statistics.median(theirs),
                    peer="the same by hand, logger=False",
                    theirs=theirs,
                    note=_NOTES[every],
                )
            )
    return figures


def _against_loggers(samples: Samples, missing: Mapping[str, str]) -> list[Figure]:
    figures = []
    ours = samples[f"job 1 {OFTEN}"]
    for name in LOGGERS:
        theirs: Sequence[float] = samples.get(name, ())
        figures.append(
            Figure(
                3,
                "the same, log_every_n_steps 1",
                "steps/s",
                ours,
                aim="> 1 ×",
                met=statistics.median(ours) > statistics.median(theirs) if theirs else None,
                peer=f"by hand with {name}",
                theirs=theirs,
                note=missing.get(name, ""),
            )
        )
    return figures


_NOTES = {
    50: "two callbacks more at each step, which Lightning calls",
    1: "each value becomes a Python number (`.item()`) and a line of JSON at each step",
}
