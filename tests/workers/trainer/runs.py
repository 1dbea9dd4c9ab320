"""Trainers run on run directories of their own, and what they leave, compared."""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from workers.forkserver import Fork
from workers.rundir import Order, RunDir

ROOT = Path(__file__).parents[3]
USER_CODE = ROOT / "tests" / "user_code"
MODULES = ("announcing", "examples.lessons.loaders", "exacting", "gated", "looping", "models", "predicting")
"""What the trainers of these tests can run. Their fork server has looked it up before the first, as a worker's has."""
ALWAYS, NEVER = 1e-9, 1e9
"""Recovery intervals: at every place there is, and at none."""

Record = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A run: a class of `exacting` with its arguments, flags of the Trainer, callbacks beside ModelCheckpoint.

    `asks` is what else the order says.
    """

    model: str
    init_args: dict[str, Any] = field(default_factory=dict)
    flags: dict[str, Any] = field(default_factory=dict)
    callbacks: list[dict[str, Any]] = field(default_factory=list)
    ranks: int = 1
    seed_by_index: bool = False
    asks: dict[str, Any] = field(default_factory=dict)

    def config(self, **init_args: Any) -> dict[str, Any]:
        """The job's config."""
        last = {"class_path": "ModelCheckpoint", "init_args": {"save_last": True, "every_n_epochs": 1}}
        flags = {"max_epochs": 2, "log_every_n_steps": 1, "enable_model_summary": False} | self.flags
        if self.ranks > 1:
            flags |= {"devices": self.ranks, "accelerator": "cpu", "strategy": "ddp"}
        model = {"class_path": f"exacting.{self.model}", "init_args": self.init_args | init_args}
        return {"seed_everything": 11, "model": model, "trainer": flags | {"callbacks": [last, *self.callbacks]}}


def start(
    folder: Path,
    case: Case,
    *,
    resume: tuple[RunDir, Record] | None = None,
    interval_seconds: float = ALWAYS,
    **init_args: Any,
) -> tuple[RunDir, list[Fork]]:
    """A trainer that runs, one fork a rank. `resume`: it goes on from a recovery checkpoint of another run."""
    run = prepared(folder, case, resume=resume, interval_seconds=interval_seconds, **init_args)
    return run, [Fork("workers.trainer.main", "train", str(run.path), rank) for rank in range(case.ranks)]


def prepared(
    folder: Path,
    case: Case,
    *,
    resume: tuple[RunDir, Record] | None = None,
    interval_seconds: float = ALWAYS,
    **init_args: Any,
) -> RunDir:
    """A run directory as a supervisor leaves it to its trainers."""
    run = RunDir(folder / f"attempt-{1 if resume is None else 2}")
    devices = [f"cpu:{rank}" for rank in range(case.ranks)]
    run.create(
        Order(
            job_id="job_1",
            attempt=1,
            config=case.config(**init_args),
            devices=devices,
            catalog_modules=list(MODULES),
            threads=1,
            recovery_interval_seconds=interval_seconds,
            resume=resume is not None,
            seed_by_index=case.seed_by_index,
            **case.asks,
        )
    )
    if resume is not None:
        _bring(*resume, run)
    return run


def train(folder: Path, case: Case, **options: Any) -> RunDir:
    """A trainer that has ended."""
    return ended(start(folder, case, **options))


def ended(started: tuple[RunDir, list[Fork]]) -> RunDir:
    """The run, once its processes are gone."""
    run, forks = started
    try:
        assert all(fork.wait(120.0) for fork in forks), run.log_tail(5000)
    finally:
        for fork in forks:
            fork.kill()
    return run


def records(run: RunDir, kind: str | None = None) -> list[Record]:
    """What a run reported, in order."""
    told = map(json.loads, run.spool.read_text().splitlines())
    return [record for record in told if kind is None or record["is"] == kind]


def events(run: RunDir, event_type: str) -> list[Record]:
    """The data of a run's events of one type."""
    return [record["data"] for record in records(run, "event") if record["type"] == event_type]


def recoveries(run: RunDir) -> list[Record]:
    """The recovery checkpoints that a run saved, oldest first."""
    return [record for record in records(run, "checkpoint") if record["kind"] == "recovery"]


def file_of(run: RunDir, saved: Record) -> Path:
    """The file of a saved checkpoint."""
    return run.outbox / saved["file"]


def rest(run: RunDir, after: Record | None = None) -> list[Any]:
    """All that a user sees of a run behind a record, in order: values with step and epoch, checkpoints saved."""
    told = records(run)
    told = told if after is None else told[told.index(after) + 1 :]
    seen: list[Any] = []
    for record in told:
        if record["is"] == "metrics":
            seen.append((record["step"], record["epoch"], record["values"]))
        elif record["is"] == "checkpoint" and record["kind"] == "model_checkpoint":
            seen.append(tuple(record[key] for key in ("name", "step", "epoch", "metrics", "best")))
        elif record["is"] == "checkpoint_removed":
            seen.append(record["name"])
    return seen


def metrics(*runs: RunDir) -> dict[tuple[str, int], Any]:
    """What the API would have: keyed by name and step, a later attempt overwriting an earlier."""
    return {
        (name, record["step"]): value
        for run in runs
        for record in records(run, "metrics")
        for name, value in record["values"].items()
    }


def last_checkpoint(run: RunDir) -> dict[str, Any]:
    """The user's own last checkpoint."""
    loaded: dict[str, Any] = torch.load(run.checkpoints / "last.ckpt", weights_only=True)
    return loaded


def differences(expected: Any, found: Any, folders: tuple[str, str], at: str = "") -> list[str]:
    """Where two checkpoints differ, bit for bit; each run's files lie in a folder of its own."""
    if isinstance(expected, torch.Tensor) and isinstance(found, torch.Tensor):
        return [] if expected.dtype == found.dtype and torch.equal(expected, found) else [at]
    if isinstance(expected, str) and isinstance(found, str):
        return (
            [] if expected.replace(folders[0], "") == found.replace(folders[1], "") else [f"{at}: {expected}, {found}"]
        )
    if isinstance(expected, dict) and isinstance(found, dict):
        one, two = _keyed(expected, folders[0]), _keyed(found, folders[1])
        if one.keys() != two.keys():
            return [f"{at}: keys {sorted(map(str, one.keys() ^ two.keys()))}"]
        return [told for key in one for told in differences(one[key], two[key], folders, f"{at}/{key}")]
    if isinstance(expected, (list, tuple)) and isinstance(found, (list, tuple)) and len(expected) == len(found):
        pairs = enumerate(zip(expected, found, strict=True))
        return [told for index, (one, two) in pairs for told in differences(one, two, folders, f"{at}/{index}")]
    return [] if expected == found else [f"{at}: {expected}, {found}"]


def assert_same_end(undisturbed: RunDir, resumed: RunDir) -> None:
    """Weights, optimizers, schedulers, callbacks and counters are equal, bit for bit."""
    folders = (str(undisturbed.path), str(resumed.path))
    assert differences(last_checkpoint(undisturbed), last_checkpoint(resumed), folders) == []


def _bring(before: RunDir, recovery: Record, run: RunDir) -> None:
    """What the supervisor does: the recovery checkpoint, and the files that ModelCheckpoint had by then."""
    shutil.copyfile(file_of(before, recovery), run.resume)
    for saved in records(before, "checkpoint"):
        if saved["kind"] == "model_checkpoint" and saved["step"] <= recovery["step"]:
            (run.checkpoints / saved["name"]).parent.mkdir(exist_ok=True)
            shutil.copyfile(file_of(before, saved), run.checkpoints / saved["name"])


def _keyed(value: dict[Any, Any], folder: str) -> dict[Any, Any]:
    return {key.replace(folder, "") if isinstance(key, str) else key: item for key, item in value.items()}
