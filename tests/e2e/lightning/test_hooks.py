"""What a module does in its hooks happens in a job as it does by hand."""

from tests.e2e.conftest import User
from tests.e2e.lightning.conftest import lesson


def test_what_is_aggregated_in_a_hook_at_an_epochs_end_is_a_metric_of_that_epoch(pupil: User) -> None:
    job_id = pupil.submit(lesson("hooks"))
    job = pupil.ended(job_id)
    assert job["status"] == "succeeded", job["reason"]
    values = {}
    for name in ("train_error", "train_worst", "train_median"):
        points = pupil.client.get(f"/v1/jobs/{job_id}/metrics/{name}").json()["points"]
        assert [(point["step"], point["epoch"]) for point in points] == [(4, 0), (9, 1), (14, 2)]
        values[name] = [point["value"] for point in points]
    for epoch in range(3):
        assert values["train_median"][epoch] < values["train_worst"][epoch]
        assert values["train_error"][epoch] < values["train_worst"][epoch]
    assert values["train_error"][2] < values["train_error"][0]
    assert set(job["metrics"]) == set(values)
