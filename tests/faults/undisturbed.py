"""The configs that are trained, and what each comes to when nothing disturbs it."""

import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tests.faults.caller import Caller
from tests.faults.schedule import MODELS, Size

FINAL = ("succeeded", "failed", "cancelled")
EPOCHS = 4
ACCUMULATED = 2
RUN_SECONDS = 90.0
OWN = "attempt"
"""The metric by which the fence tells attempts apart: it is another in every disturbed run."""

Series = dict[str, list[tuple[int, int | None, Any]]]
"""By name: step, epoch and value of each point."""


@dataclass(frozen=True)
class Result:
    """What a job yields, to be compared: its metrics, and each checkpoint's content by (step, is it the last)."""

    series: Series
    checkpoints: dict[tuple[int, bool], dict[str, Any]]


def config_of(model: str, size: Size, *, step_seconds: float, fence: Path | None) -> dict[str, Any]:
    """The config of a model. Neither the time a step takes nor the fence changes anything that is computed."""
    arguments = {"batches": size.batches, "step_seconds": step_seconds}
    checkpoints = {"monitor": "val_loss", "save_top_k": 2, "save_last": True}
    trainer = {
        "max_epochs": EPOCHS,
        "log_every_n_steps": 1,
        "enable_model_summary": False,
        "callbacks": [{"class_path": "ModelCheckpoint", "init_args": checkpoints}],
    }
    if model == "accumulating":
        trainer["accumulate_grad_batches"] = ACCUMULATED
    return {
        "seed_everything": 7,
        "model": {
            "class_path": f"enduring.{model.capitalize()}",
            "init_args": arguments | ({"fence": str(fence)} if fence is not None else {}),
        },
        "trainer": trainer,
    }


def undisturbed(caller: Caller, size: Size) -> dict[str, Result]:
    """Train each config once, with nothing in its way; what came of it, by model."""
    return results_of(caller, submit(caller, size, MODELS))


def submit(caller: Caller, size: Size, models: Sequence[str]) -> dict[str, str]:
    """Submit a job of each config, as fast as it gets; their ids, by model."""
    jobs = {}
    for model in models:
        spec = {"name": f"undisturbed {model}", "config": config_of(model, size, step_seconds=0.0, fence=None)}
        answer = caller.ask("POST", "/v1/jobs", json=spec)
        assert answer is not None, "the API does not take the undisturbed jobs"
        assert answer.status_code == 201, answer.text
        jobs[model] = answer.json()["id"]
    return jobs


def results_of(caller: Caller, jobs: Mapping[str, str]) -> dict[str, Result]:
    """What jobs that nothing is to disturb have come to, once all have ended, by model."""
    deadline = time.monotonic() + RUN_SECONDS
    while any(caller.get(f"/v1/jobs/{job_id}")["status"] not in FINAL for job_id in jobs.values()):
        assert time.monotonic() < deadline, f"the undisturbed jobs have not ended after {RUN_SECONDS:g} s"
        time.sleep(0.1)
    for model, job_id in jobs.items():
        job = caller.get(f"/v1/jobs/{job_id}")
        assert (job["status"], job["attempt"]) == ("succeeded", 1), f"undisturbed, {model} came to {job}"
    return {model: result_of(caller, job_id) for model, job_id in jobs.items()}


def result_of(caller: Caller, job_id: str) -> Result:
    """What a job has yielded."""
    series: Series = {}
    for summary in caller.get(f"/v1/jobs/{job_id}/metrics")["data"]:
        told = caller.get(f"/v1/jobs/{job_id}/metrics/{summary['name']}", max_points=10_000)
        series[summary["name"]] = [(point["step"], point["epoch"], point["value"]) for point in told["points"]]
    checkpoints = {}
    for row in caller.all(f"/v1/jobs/{job_id}/checkpoints"):
        if row["kind"] == "model_checkpoint":
            content = caller.content(f"/v1/checkpoints/{row['id']}/content")
            checkpoints[row["step"], row["is_last"]] = torch.load(io.BytesIO(content), weights_only=True)
    return Result(series, checkpoints)


def equal(one: Any, other: Any) -> bool:
    """Whether two values are the same, tensors bit for bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(equal(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)
