"""A run killed at any step and resumed ends as one that was never disturbed: weights and metrics, bit for bit."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from workers.forkserver import Fork, warm
from workers.rundir import Order, Outcome, RunDir

USER_CODE = Path(__file__).parents[2] / "user_code"
BATCHES_PER_EPOCH = 10

CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "dropout and shuffle": ("Dropping", {}, {}),
    "workers that augment": ("Dropping", {"num_workers": 2}, {}),
    "validation inside the epoch": ("Dropping", {}, {"val_check_interval": 3}),
    "accumulation and clipping": ("Dropping", {}, {"accumulate_grad_batches": 3, "gradient_clip_val": 0.5}),
    "two optimizers": ("Adversaries", {"num_workers": 2}, {}),
}


@pytest.fixture(scope="module", autouse=True)
def _warm() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(USER_CODE))
        warm()
        yield


def train(folder: Path, attempt: int, case: str, *, dies_at: int = -1, resume_from: Path | None = None) -> RunDir:
    name, init_args, flags = CASES[case]
    checkpoints = {"class_path": "ModelCheckpoint", "init_args": {"save_last": True, "every_n_epochs": 1}}
    config = {
        "seed_everything": 11,
        "model": {"class_path": f"exacting.{name}", "init_args": init_args | {"dies_at": dies_at}},
        "trainer": flags
        | {"max_epochs": 3, "log_every_n_steps": 1, "callbacks": [checkpoints], "enable_model_summary": False},
    }
    run = RunDir(folder / f"attempt-{attempt}")
    run.create(Order("job_1", attempt, config, ["cpu:0"], ["exacting"], 0, 1, 1e-9, resume=resume_from is not None))
    if resume_from is not None:
        shutil.copyfile(resume_from, run.resume)
    fork = Fork("workers.trainer.main", "train", str(run.path), 0)
    assert fork.wait(120.0)
    return run


def records(run: RunDir, kind: str) -> list[dict[str, Any]]:
    return [record for record in map(json.loads, run.spool.read_text().splitlines()) if record["is"] == kind]


def metrics(*runs: RunDir) -> dict[tuple[str, int], Any]:
    """What the API would have: keyed by name and step, a later attempt overwriting an earlier."""
    return {
        (name, record["step"]): value
        for run in runs
        for record in records(run, "metrics")
        for name, value in record["values"].items()
    }


def weights(run: RunDir) -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(run.checkpoints / "last.ckpt", weights_only=True)["state_dict"]
    return loaded


def newest_recovery(run: RunDir) -> Path:
    saved = [record for record in records(run, "checkpoint") if record["kind"] == "recovery"]
    return run.outbox / saved[-1]["file"]


@pytest.mark.parametrize("case", CASES)
def test_a_killed_and_resumed_run_equals_one_that_was_not_disturbed(case: str, tmp_path: Path) -> None:
    undisturbed = train(tmp_path / "undisturbed", 1, case)
    assert undisturbed.read_outcome() == Outcome("succeeded")
    for dies_at in (4, 13, 26):
        folder = tmp_path / f"dies-at-{dies_at}"
        killed = train(folder, 1, case, dies_at=dies_at)
        assert killed.read_outcome() is None
        resumed = train(folder, 2, case, resume_from=newest_recovery(killed))
        assert resumed.read_outcome() == Outcome("succeeded"), resumed.log_tail(3000)
        (event,) = [record for record in records(resumed, "event") if record["type"] == "resumed"]
        assert dies_at % BATCHES_PER_EPOCH - 3 <= event["data"]["batches_skipped"] <= dies_at % BATCHES_PER_EPOCH
        expected, found = weights(undisturbed), weights(resumed)
        assert expected.keys() == found.keys()
        assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
        assert metrics(killed, resumed) == metrics(undisturbed)


def test_saving_recoveries_changes_nothing_of_the_run(tmp_path: Path) -> None:
    often = train(tmp_path / "often", 1, "dropout and shuffle")
    assert [record for record in records(often, "checkpoint") if record["kind"] == "recovery"]
    order = often.order()
    never = RunDir(tmp_path / "never" / "attempt-1")
    never.create(Order("job_1", 1, order.config, ["cpu:0"], ["exacting"], 0, 1, 1e9))
    assert Fork("workers.trainer.main", "train", str(never.path), 0).wait(120.0)
    assert not [record for record in records(never, "checkpoint") if record["kind"] == "recovery"]
    assert metrics(often) == metrics(never)
    assert all(torch.equal(value, weights(never)[name]) for name, value in weights(often).items())
