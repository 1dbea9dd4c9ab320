"""On a machine with a CUDA device: jobs take it, see no other, and give it back."""

import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.e2e.conftest import User
from tests.stack import Backend, Stack


def has_gpu() -> bool:
    try:
        return subprocess.run(["nvidia-smi", "-L"], capture_output=True, check=True).stdout.startswith(b"GPU 0")
    except (OSError, subprocess.CalledProcessError):
        return False


pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not has_gpu(), reason="needs a CUDA device: nvidia-smi finds none")]


@pytest.fixture(scope="module")
def gpu_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    settings = {"LIGHTYARD_WORKER_DEVICES": "auto", "LIGHTYARD_WORKER_SLOTS": "0"}
    with Stack(tmp_path_factory.mktemp("gpu"), Backend("embedded", "", ""), settings=settings) as stack:
        yield User(stack)


def test_a_worker_announces_its_gpus_with_their_memory(gpu_user: User) -> None:
    (worker,) = gpu_user.client.get("/v1/workers").json()["data"]
    assert worker["devices"][0]["id"] == "gpu:0"
    assert worker["devices"][0]["memory_bytes"] > 2**30


@pytest.mark.parametrize("accelerator", ["gpu", "auto", "cuda"])
def test_a_job_trains_on_the_gpu_and_sees_no_other(gpu_user: User, accelerator: str, tmp_path: Path) -> None:
    config = gpu_user.net(batches=4, trainer={"accelerator": accelerator, "max_steps": 4, "enable_checkpointing": True})
    config["model"]["class_path"] = "misbehaving.Curious"
    job = gpu_user.ended(gpu_user.submit(config))
    assert job["status"] == "succeeded", job["reason"]
    assert job["attempts"][0]["devices"] == ["gpu:0"]
    log = gpu_user.log(job["id"])
    assert "cuda: '0'" in log
    assert "device: cuda:0" in log
    assert gpu_user.download(job["last_checkpoint_id"], tmp_path / "last.ckpt").stat().st_size > 0


def test_jobs_for_the_one_gpu_run_one_after_the_other(gpu_user: User) -> None:
    jobs = [gpu_user.submit(gpu_user.net(trainer={"accelerator": "gpu"})) for _ in range(4)]
    spans = []
    for job_id in jobs:
        attempt = gpu_user.ended(job_id)["attempts"][0]
        spans.append((attempt["started_at"], attempt["ended_at"]))
    spans.sort()
    assert all(one[1] <= two[0] for one, two in pairwise(spans)), spans


def test_more_memory_than_the_gpu_has_is_told_as_such(gpu_user: User) -> None:
    job = gpu_user.ended(gpu_user.submit(gpu_user.net("gpu_memory", trainer={"accelerator": "gpu"})))
    assert (job["status"], job["reason"]["code"]) == ("failed", "oom")
    after = gpu_user.ended(gpu_user.submit(gpu_user.net(trainer={"accelerator": "gpu"})))
    assert after["status"] == "succeeded", "the device is free again"


def test_mixed_precision_trains(gpu_user: User) -> None:
    for precision in ("16-mixed", "bf16-mixed"):
        config = gpu_user.net(batches=4, trainer={"accelerator": "gpu", "max_steps": 4, "precision": precision})
        job = gpu_user.ended(gpu_user.submit(config))
        assert job["status"] == "succeeded", job["reason"]
