"""What a job turned out to be, as the API shows it."""

import yaml

from tests.e2e.conftest import User
from tests.e2e.lightning.conftest import lesson


def test_a_summary_tells_sizes_precision_and_how_long_it_takes(pupil: User) -> None:
    job = pupil.ended(pupil.submit(lesson("accumulation")))
    assert job["status"] == "succeeded", job["reason"]
    assert job["summary"] == {
        "parameters": 2,
        "trainable_parameters": 2,
        "batch_size": 4,
        "effective_batch_size": 16,
        "accumulation": [{"from_epoch": 0, "accumulate_grad_batches": 4, "effective_batch_size": 16}],
        "precision_asked": "16-mixed",
        "precision": "bf16-mixed",
        "accelerator": "cpu",
        "devices": 1,
        "nodes": 1,
        "world_size": 1,
        "strategy": "SingleDeviceStrategy",
        "automatic_optimization": True,
        "optimizers": ["SGD"],
        "lr_schedulers": [],
        "hyperparameters": {"model": {"lr": 0.1}},
        "hyperparameters_left_out": 0,
        "sanity_steps": 0,
        "estimated_steps": 8,
    }
    assert job["progress"]["global_step"] == 8


def test_a_schedule_of_accumulation_is_told_with_its_batch_sizes_and_its_steps(pupil: User) -> None:
    job = pupil.ended(pupil.submit(lesson("accumulation_schedule")))
    assert job["status"] == "succeeded", job["reason"]
    assert [list(entry.values()) for entry in job["summary"]["accumulation"]] == [[0, 1, 4], [1, 4, 16], [2, 5, 20]]
    progress = job["progress"]
    assert job["summary"]["estimated_steps"] == progress["max_steps"] == progress["global_step"] == 16 + 4 + 4
    assert progress["fraction"] == 1.0


def test_several_devices_count_in_the_effective_batch(pupil: User) -> None:
    config = yaml.safe_load(lesson("early_stopping"))
    config["trainer"] |= {"devices": 2, "strategy": "ddp", "max_epochs": 1, "accumulate_grad_batches": 2}
    job = pupil.ended(pupil.submit(config))
    assert job["status"] == "succeeded", job["reason"]
    told = job["summary"]
    assert (told["world_size"], told["strategy"], told["effective_batch_size"]) == (2, "DDPStrategy", 16)
    assert told["sanity_steps"] == 2
