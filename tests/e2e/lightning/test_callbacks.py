"""Lightning's own callbacks, schedules and compilation as jobs."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.e2e.conftest import User
from tests.e2e.lightning.conftest import lesson


def succeeded(pupil: User, config: dict[str, Any] | str) -> dict[str, Any]:
    job = pupil.ended(pupil.submit(config))
    assert job["status"] == "succeeded", job["reason"]
    return job


def values(pupil: User, job: dict[str, Any], name: str) -> list[float]:
    """The points of one of a job's series."""
    answer = pupil.client.get(f"/v1/jobs/{job['id']}/metrics/{name}")
    assert answer.status_code == 200, answer.text
    return [float(point["value"]) for point in answer.json()["points"]]


def saw(pupil: User, job: dict[str, Any]) -> dict[str, Any]:
    line = next(line for line in pupil.log(job["id"]).splitlines() if line.startswith("saw {"))
    return dict(json.loads(line.removeprefix("saw ")))


def checkpoint(pupil: User, job: dict[str, Any], folder: Path) -> dict[str, Any]:
    last = pupil.client.get(f"/v1/jobs/{job['id']}/checkpoints/last").json()
    loaded: dict[str, Any] = torch.load(pupil.download(last["id"], folder / "last.ckpt"), weights_only=True)
    return loaded


def test_what_watching_callbacks_log_and_print_is_the_jobs(pupil: User, tmp_path: Path) -> None:
    job = succeeded(pupil, lesson("callbacks"))
    names = {series["name"] for series in pupil.client.get(f"/v1/jobs/{job['id']}/metrics").json()["data"]}
    assert {"lr-SGD", "loss", "train/device/samples_per_sec", "validate/samples"} <= names
    assert "DeviceStatsMonitor.on_train_batch_start/cpu_percent" in names
    log = pupil.log(job["id"])
    assert "trained for 12 steps" in log, "LambdaCallback; 8 steps, then 4 of two batches each"
    assert "Total params" in log, "RichModelSummary"
    assert "current_model_state" in checkpoint(pupil, job, tmp_path), "EMAWeightAveraging"
    assert "TQDMProgressBar" not in saw(pupil, job)["callbacks"], "bars are for a terminal"


def test_stochastic_weight_averaging_takes_over_the_learning_rate(pupil: User) -> None:
    job = succeeded(pupil, lesson("averaging"))
    rates = values(pupil, job, "lr-SGD")
    assert rates[0] == pytest.approx(0.1)
    assert rates[-1] == pytest.approx(0.02), "swa_lrs"


def test_pruned_weights_are_zero_in_the_checkpoint(pupil: User, tmp_path: Path) -> None:
    job = succeeded(pupil, lesson("pruning"))
    assert "Applied `L1Unstructured`. Pruned: 0/4 (0.00%) -> 2/4 (50.00%)" in pupil.log(job["id"])
    weights = checkpoint(pupil, job, tmp_path)["state_dict"]
    assert weights.keys() == {"net.weight", "net.bias"}
    assert int((weights["net.weight"] == 0).sum()) == 2


def test_finders_set_what_they_found_and_their_trials_are_no_checkpoints(pupil: User) -> None:
    job = succeeded(pupil, lesson("finders"))
    log = pupil.log(job["id"])
    assert "Finished batch size finder, will continue with full run using batch size 64" in log
    found = float(log.partition("Learning rate set to ")[2].split()[0])
    assert values(pupil, job, "lr-AdamW")[0] == pytest.approx(found)
    kept = pupil.client.get(f"/v1/jobs/{job['id']}/checkpoints").json()["data"]
    assert [one["name"] for one in kept if one["name"].startswith(".")] == []


def test_a_frozen_backbone_is_trained_from_its_epoch_on(pupil: User) -> None:
    job = succeeded(pupil, lesson("finetuning"))
    assert values(pupil, job, "lr-Adam/pg1")[0] == pytest.approx(1e-2)
    assert values(pupil, job, "lr-Adam/pg2")[0] == pytest.approx(1e-3), "initial_denom_lr: a tenth"


def test_an_error_leaves_the_checkpoint_that_was_asked_for_and_a_pause_does_not(pupil: User) -> None:
    saves = {"class_path": "ModelCheckpoint", "init_args": {"save_on_exception": True, "every_n_epochs": 50}}
    flags = {"max_steps": 1000, "enable_checkpointing": True, "callbacks": [saves]}
    failing = pupil.ended(pupil.submit(pupil.net("raise", trainer=flags, at_step=3)))
    assert failing["status"] == "failed"
    (kept,) = pupil.client.get(f"/v1/jobs/{failing['id']}/checkpoints").json()["data"]
    assert kept["kind"] == "model_checkpoint"
    job_id = pupil.submit(pupil.net(trainer=flags, step_seconds=0.02, batches=1000))
    pupil.until_event(job_id, "first_step")
    pupil.client.post(f"/v1/jobs/{job_id}/pause")
    pupil.until(job_id, lambda job: job["status"] == "paused", "the job is paused")
    kinds = [one["kind"] for one in pupil.client.get(f"/v1/jobs/{job_id}/checkpoints").json()["data"]]
    pupil.client.post(f"/v1/jobs/{job_id}/cancel")
    assert "model_checkpoint" not in kinds


def test_a_callback_given_a_lambda_as_text_is_told_where_functions_must_be(pupil: User) -> None:
    callback = {"class_path": "LambdaCallback", "init_args": {"on_train_end": "lambda trainer, module: None"}}
    answer = pupil.client.post("/v1/jobs", json={"config": pupil.net(trainer={"callbacks": [callback]})})
    assert answer.status_code == 422
    (fault,) = answer.json()["errors"]
    assert fault["pointer"] == "/config/trainer/callbacks/0/init_args/on_train_end"
    assert "A class must be in a module that a worker announces" in fault["message"]


def test_a_schedule_of_the_configs_is_stepped_once_an_epoch(pupil: User) -> None:
    rates = values(pupil, succeeded(pupil, lesson("schedule_epochs")), "lr-AdamW")
    assert rates == pytest.approx([0.1, 0.05, 0.025]), "LearningRateMonitor looks as often as the schedule is stepped"


def test_a_plateau_schedule_halves_the_rate_when_its_metric_gets_no_better(pupil: User) -> None:
    rates = values(pupil, succeeded(pupil, lesson("schedule_plateau")), "lr-SGD")
    assert rates == pytest.approx([0.1, 0.05, 0.025, 0.0125])


def test_schedules_of_the_modules_own_are_stepped_as_they_say(pupil: User) -> None:
    text = lesson("schedule_steps")
    rates = values(pupil, succeeded(pupil, text), "lr-SGD")
    assert rates[:5] == pytest.approx([0.01, 0.0325, 0.055, 0.0775, 0.1]), "a warm-up of four steps"
    assert rates[5:] == sorted(rates[5:], reverse=True)
    rates = values(pupil, succeeded(pupil, text.replace("schedule: warm_up", "schedule: one_cycle")), "lr-SGD")
    assert len(set(rates)) == 16, "one step of the schedule a step"
    assert max(rates) == pytest.approx(0.1, rel=0.01)
    text = text.replace("schedule: warm_up", "schedule: plateau").replace("max_epochs: 2", "max_epochs: 7")
    rates = values(pupil, succeeded(pupil, text), "lr-SGD")
    assert rates == pytest.approx([0.1, 0.1, 0.05, 0.05, 0.025, 0.025, 0.0125]), "frequency: 2"


def test_a_module_is_compiled_by_a_callback_and_its_weights_keep_their_names(pupil: User, tmp_path: Path) -> None:
    text = lesson("compile")
    job = succeeded(pupil, text)
    plain = succeeded(pupil, text[: text.index("  callbacks:")])
    assert values(pupil, job, "train_loss") == pytest.approx(values(pupil, plain, "train_loss"), rel=1e-5)
    names = checkpoint(pupil, job, tmp_path)["state_dict"].keys()
    assert names == checkpoint(pupil, plain, tmp_path)["state_dict"].keys()
