"""A config becomes a trained model: as a job, the same as by hand."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from embedded.lineage import bound_to_parent
from tests.e2e.conftest import User

# What SQLite keeps of a run is looked at by all the tests in lightning/.
pytestmark = pytest.mark.parametrize("stack", ["production"], indirect=True)

ROOT = Path(__file__).parents[2]
DIGITS = (ROOT / "examples" / "digits.yaml").read_text().replace("max_epochs: 20", "max_epochs: 2")

BY_HAND = """
import json, sys, torch
from pathlib import Path
from pytorch_lightning import Trainer
from pytorch_lightning.cli import LightningCLI
from models.data import Digits
from models.vision import ImageClassifier
LightningCLI(args=["fit", "--config", sys.argv[1], "--trainer.default_root_dir", "by-hand"])
last, best = json.loads(sys.stdin.readline())
one = torch.load(last, weights_only=True, map_location="cpu")
two = torch.load(next(Path("by-hand").rglob("last.ckpt")), weights_only=True, map_location="cpu")
same = {key: torch.equal(value, two["state_dict"][key]) for key, value in one["state_dict"].items()}
moments = [torch.equal(state["exp_avg"], two["optimizer_states"][0]["state"][index]["exp_avg"])
    for index, state in one["optimizer_states"][0]["state"].items()]
module = ImageClassifier.load_from_checkpoint(best, weights_only=True)
trainer = Trainer(logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu")
score = trainer.validate(module, Digits(batch_size=64, random_shift=1), verbose=False)[0]
print(json.dumps({"same": same, "moments": moments, "steps": [one["global_step"], two["global_step"]], "score": score}))
"""
"""Trains the config as a user outside of the service would, then compares it with a job's last checkpoint and its best.

Their paths come as a line of JSON when it has ended.
"""


@contextmanager
def by_hand(config: Path) -> Iterator[subprocess.Popen[str]]:
    """A Python of its own that knows nothing of the service."""
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin", "HOME": str(Path.home())}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [sys.executable, "-c", BY_HAND, str(config)]
    started = subprocess.Popen(
        command, cwd=config.parent, env=environment, text=True, preexec_fn=bound_to_parent(), **pipes
    )
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


def test_the_digits_file_trains_as_a_job_to_what_it_trains_to_by_hand_bit_for_bit(user: User, tmp_path: Path) -> None:
    config = tmp_path / "digits.yaml"
    config.write_text(DIGITS)
    with by_hand(config) as hand:
        job_id = user.submit(DIGITS)
        job = user.ended(job_id, deadline_seconds=120)
        assert job["status"] == "succeeded", job["reason"]
        types = user.event_types(job_id)
        assert types[:6] == ["created", "claimed", "started", "data_prepared", "data_set_up", "first_step"]
        assert types[-1] == "succeeded"
        assert types.count("checkpoint_saved") >= 3

        listed = user.client.get(f"/v1/jobs/{job_id}/checkpoints").json()["data"]
        files = {}
        for checkpoint in listed:
            file = user.download(checkpoint["id"], tmp_path / checkpoint["id"])
            assert hashlib.sha256(file.read_bytes()).hexdigest() == checkpoint["sha256"]
            assert file.stat().st_size == checkpoint["size_bytes"]
            files[checkpoint["id"]] = file
        assert [one["is_best"] for one in listed].count(True) == 1
        assert [one["is_last"] for one in listed].count(True) == 1

        best = user.client.get(f"/v1/jobs/{job_id}/checkpoints/best").json()
        paths = [str(files[job["last_checkpoint_id"]]), str(files[best["id"]])]
        output, errors = hand.communicate(json.dumps(paths), timeout=120)
    assert hand.returncode == 0, errors
    told = json.loads(output.strip().splitlines()[-1])
    assert told["same"]
    assert all(told["same"].values()), told
    assert told["moments"]
    assert all(told["moments"]), told
    assert told["steps"][0] == told["steps"][1]
    assert told["score"]["val_acc"] == best["metrics"]["val_acc"]
    assert told["score"]["val_loss"] == best["metrics"]["val_loss"]


def test_what_a_job_logged_is_what_it_tells(user: User) -> None:
    config = user.net(batches=6, trainer={"max_steps": 6, "log_every_n_steps": 1})
    job_id = user.submit(config, name="logged", labels={"suite": "e2e"})
    job = user.ended(job_id)
    assert job["status"] == "succeeded", job["reason"]
    points = user.client.get(f"/v1/jobs/{job_id}/metrics/loss").json()["points"]
    assert [point["step"] for point in points] == list(range(6))
    assert job["metrics"]["loss"] == points[-1]["value"]
    assert job["progress"]["global_step"] == job["progress"]["max_steps"] == 6
    assert "max_steps=6` reached" in user.log(job_id)
    found = user.client.get("/v1/jobs", params={"name": "logged", "label.suite": "e2e"}).json()["data"]
    assert [one["id"] for one in found] == [job_id]


def test_a_running_job_finds_no_credential_in_its_environment(user: User) -> None:
    config = user.net()
    config["model"]["class_path"] = "misbehaving.Curious"
    job_id = user.submit(config)
    assert user.ended(job_id)["status"] == "succeeded"
    log = user.log(job_id)
    assert "environment: PATH" in log
    for name in ("LIGHTYARD_DATABASE_URL", "LIGHTYARD_BROKER_URL", "LIGHTYARD_STORAGE_URL"):
        assert name not in log
    assert "cuda: ''" in log, "a CPU job sees no GPU"


def test_every_fault_of_a_config_is_told_at_submit_and_no_row_is_left(user: User) -> None:
    before = user.client.get("/v1/jobs").json()["data"]
    config = yaml.safe_load(DIGITS)
    config["model"]["init_args"]["widht"] = 3
    config["model"]["init_args"]["num_classes"] = "ten"
    config["trainer"]["callbacks"][1]["class_path"] = "EarlyStoping"
    config["trainer"]["max_epochs"] = -7
    answer = user.client.post("/v1/jobs", json={"config": config})
    assert answer.status_code == 422
    assert {fault["pointer"] for fault in answer.json()["errors"]} == {
        "/config/model/init_args/widht",
        "/config/model/init_args/num_classes",
        "/config/trainer/callbacks/1/class_path",
        "/config/trainer/max_epochs",
    }
    assert user.client.get("/v1/jobs").json()["data"] == before
