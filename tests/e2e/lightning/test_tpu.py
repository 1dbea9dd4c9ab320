"""TPUs, of which there is none here: what is said of them at every place where somebody could miss them."""

from collections.abc import Iterator
from typing import Any

import pytest

from core.database import Database
from core.fleet import Fleet
from core.ids import new_id
from tests.e2e.conftest import User
from tests.e2e.lightning.conftest import lesson
from workers.trainer.accelerators import missing


@pytest.fixture
def a_tpu(pupil: User) -> Iterator[None]:
    """A worker with a TPU has announced itself, and the same classes as the one that runs."""
    database = Database(pupil.stack.database_url)
    fleet = Fleet(database)
    (digest, *_) = fleet.catalog_digests(30.0)
    (body,) = fleet.catalog_bodies([digest])
    worker_id = new_id("wrk")
    fleet.join(worker_id, "with-a-tpu", 1, [{"id": "tpu:0", "name": "TPU"}], {"torch_xla": "2.9.0"})
    fleet.announce(worker_id, digest, body)
    yield
    fleet.leave(worker_id)
    database.close()


def refused(pupil: User, text: str) -> dict[str, Any]:
    """The one fault of a submission, by its pointer and code."""
    answer = pupil.client.post("/v1/jobs", content=text, headers={"Content-Type": "application/yaml"})
    assert answer.status_code == 422, answer.text
    (fault,) = answer.json()["errors"]
    return dict(fault)


def test_without_a_tpu_a_job_waits_and_says_for_what_or_is_refused_as_it_asks(pupil: User) -> None:
    text = lesson("tpu")
    job = pupil.job(pupil.submit(text))
    assert job["waiting"]["reason"] == "no worker that is up has 1 device(s) of kind 'tpu'"
    pupil.client.post(f"/v1/jobs/{job['id']}/cancel")
    fault = refused(pupil, text.replace("when_unavailable: wait", "when_unavailable: refuse"))
    assert (fault["pointer"], fault["code"]) == ("/config/trainer/accelerator", "no_such_device")
    assert "'tpu'" in fault["message"]


def test_more_devices_than_any_worker_has_are_refused_where_the_job_is_not_to_wait(pupil: User) -> None:
    flags = "accelerator: cpu, devices: 9, strategy: ddp"
    spec = "{when_unavailable: refuse, config: {model: {class_path: misbehaving.Net}, trainer: {" + flags + "}}}"
    fault = refused(pupil, spec)
    assert (fault["pointer"], fault["code"]) == ("/config/trainer/devices", "no_such_device")
    assert "no worker that is up has more than 2" in fault["message"]


@pytest.mark.usefixtures("a_tpu")
def test_with_a_tpu_a_job_waits_for_it_and_not_for_want_of_one(pupil: User) -> None:
    job = pupil.job(pupil.submit(lesson("tpu").replace("wait", "refuse", 1)))
    assert job["waiting"]["reason"] == "waiting for a free device"
    pupil.client.post(f"/v1/jobs/{job['id']}/cancel")


def test_what_a_tpu_cannot_do_is_told_by_pointer(pupil: User) -> None:
    text = lesson("tpu")
    assert refused(pupil, text.replace("bf16-true", "16-mixed"))["pointer"] == "/config/trainer/precision"
    assert refused(pupil, text.replace("devices: 1", "devices: 4"))["pointer"] == "/config/trainer/devices"


def test_a_trainer_that_finds_no_torch_xla_says_what_is_missing() -> None:
    outcome = missing(["tpu:0"])
    assert outcome is not None
    assert (outcome.status, outcome.code, outcome.traceback) == ("failed", "no_such_device", None)
    assert "torch_xla is not installed in this worker's Python" in (outcome.message or "")
    assert missing(["cpu:0"]) is None
