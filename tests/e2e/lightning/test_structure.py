from tests.e2e.conftest import User
from tests.e2e.lightning.conftest import lesson


def test_a_model_its_data_and_a_trainer_are_all_that_a_job_needs(pupil: User) -> None:
    job = pupil.ended(pupil.submit(lesson("structure")))
    assert job["status"] == "succeeded", job["reason"]
    assert {"train_loss", "val_loss", "val_acc"} <= set(job["metrics"])
