"""Plain DataLoaders in place of a data module."""

import yaml

from tests.e2e.conftest import User
from tests.e2e.lightning.conftest import lesson


def test_a_function_that_returns_loaders_stands_for_a_data_module(pupil: User) -> None:
    entry = pupil.client.get("/v1/catalog/lessons.loaders.digit_loaders").json()
    assert entry["kind"] == "data"
    assert entry["schema"]["properties"]["batch_size"]["default"] == 64
    short, long = (pupil.submit(lesson(name)) for name in ("loaders", "loaders_by_hand"))
    jobs = [pupil.ended(job_id) for job_id in (short, long)]
    assert [job["status"] for job in jobs] == ["succeeded"] * 2, [job["reason"] for job in jobs]
    assert {"train_loss", "val_loss", "val_acc"} <= set(jobs[0]["metrics"])
    assert jobs[0]["metrics"] == jobs[1]["metrics"]
    # What the job leaves runs by hand.
    left = yaml.safe_load(pupil.client.get(f"/v1/jobs/{short}/artifacts/config.yaml").text)
    expected = yaml.safe_load(lesson("loaders_by_hand"))["data"]
    assert left["data"] == expected


def test_loaders_are_given_to_each_rank_in_part_and_prepared_once(pupil: User) -> None:
    config = yaml.safe_load(lesson("loaders"))
    flags = {"devices": 2, "strategy": "ddp", "max_epochs": 1, "limit_train_batches": 3, "limit_val_batches": 1}
    config["trainer"] |= flags
    job = pupil.ended(pupil.submit(config))
    assert job["status"] == "succeeded", job["reason"]
    told = [(event["type"], event["data"]) for event in pupil.events(job["id"])]
    prepared = [data for kind, data in told if kind == "data_prepared"]
    assert [(one["class_path"], one["node"]) for one in prepared] == [("lessons.loaders.digit_loaders", 0)]
    assert sorted(data["rank"] for kind, data in told if kind == "data_set_up") == [0, 1]


def test_arguments_that_the_function_does_not_take_are_faults_at_submit(pupil: User) -> None:
    config = yaml.safe_load(lesson("loaders"))
    config["data"]["init_args"] = {"batch_size": "large", "shuffled": True}
    answer = pupil.client.post("/v1/jobs", json={"config": config})
    assert answer.status_code == 422
    assert [(fault["pointer"], fault["code"]) for fault in answer.json()["errors"]] == [
        ("/config/data/init_args/batch_size", "wrong_type"),
        ("/config/data/init_args/shuffled", "unknown_argument"),
    ]
