"""How a run ends, and what its job says of it: each lesson is submitted as it is."""

import pytest
import yaml

from tests.e2e.conftest import User
from tests.e2e.lightning.conftest import lesson


def test_a_module_of_twenty_lines_that_returns_its_loss_trains(pupil: User) -> None:
    job = pupil.ended(pupil.submit(lesson("minimal")))
    assert (job["status"], job["reason"]) == ("succeeded", None)
    assert job["metrics"]["train_loss_epoch"] < 0.05


def test_a_loss_that_is_not_finite_ends_the_job_at_its_step(pupil: User) -> None:
    job = pupil.ended(pupil.submit(lesson("stop_on_nan")))
    assert (job["status"], job["reason"]["code"]) == ("failed", "diverged")
    data = job["reason"]["data"]
    assert data["stage"] == "training"
    assert data["loss"] in ("Infinity", "NaN")
    assert f"at step {data['global_step']} (epoch 0, batch {data['batch']})" in job["reason"]["message"]
    points = pupil.client.get(f"/v1/jobs/{job['id']}/metrics/train_loss_step").json()["points"]
    assert [point["step"] for point in points] == list(range(data["global_step"])), "the step before was the last"


def test_several_ranks_agree_on_the_step_though_they_look_seldom(pupil: User) -> None:
    document = yaml.safe_load(lesson("stop_on_nan"))
    document["config"]["trainer"] |= {"devices": 2, "strategy": "ddp", "max_epochs": 6}
    job = pupil.ended(pupil.submit(document.pop("config"), **document))
    assert (job["status"], job["reason"]["code"]) == ("failed", "diverged")
    points = pupil.client.get(f"/v1/jobs/{job['id']}/metrics/train_loss_step").json()["points"]
    not_finite = [point["step"] for point in points if isinstance(point["value"], str)]
    assert job["reason"]["data"]["global_step"] == not_finite[0]


def test_without_the_request_it_trains_on_as_by_hand(pupil: User) -> None:
    job = pupil.ended(pupil.submit(yaml.safe_load(lesson("stop_on_nan"))["config"]))
    assert job["status"] == "succeeded"


def test_detect_anomaly_names_the_step_and_the_function(pupil: User) -> None:
    config = yaml.safe_load(lesson("stop_on_nan"))["config"]
    config["trainer"]["detect_anomaly"] = True
    job = pupil.ended(pupil.submit(config))
    assert (job["status"], job["reason"]["code"]) == ("failed", "diverged")
    assert "detect_anomaly stops: Function 'MseLossBackward0' returned nan values" in job["reason"]["message"]
    assert job["reason"]["data"]["global_step"] > 0


def test_a_training_step_that_never_returns_a_loss_is_an_error_after_one_epoch(pupil: User) -> None:
    config = yaml.safe_load(lesson("minimal"))
    config["model"] = {"class_path": "lessons.minimal.Silent"}
    job = pupil.ended(pupil.submit(config))
    assert (job["status"], job["reason"]["code"]) == ("failed", "user_error")
    assert "training_step of Silent returned None for all 16 batches" in job["reason"]["message"]


def test_a_job_that_stops_early_says_when_and_how_good_it_was(pupil: User) -> None:
    job = pupil.ended(pupil.submit(lesson("early_stopping")))
    assert (job["status"], job["reason"]["code"]) == ("succeeded", "early_stopped")
    data = job["reason"]["data"]
    assert (data["monitor"], data["mode"], data["because"]) == ("val_loss", "min", "patience_exhausted")
    series = pupil.client.get(f"/v1/jobs/{job['id']}/metrics/val_loss").json()["points"]
    assert data["stopped_epoch"] == series[-1]["epoch"] == job["progress"]["epoch"]
    assert data["score"] == pytest.approx(series[-1]["value"])
    assert data["best_score"] in [pytest.approx(point["value"]) for point in series]
    assert f"stopped after epoch {data['stopped_epoch']}" in job["reason"]["message"]


def test_a_monitored_name_that_is_never_logged_is_an_error_with_those_that_were(pupil: User) -> None:
    config = yaml.safe_load(lesson("early_stopping"))
    config["trainer"]["callbacks"]["init_args"]["monitor"] = "val_lass"
    job = pupil.ended(pupil.submit(config))
    assert (job["status"], job["reason"]["code"]) == ("failed", "user_error")
    assert "did you mean `val_loss`?" in job["reason"]["message"]
    assert job["reason"]["data"]["monitor"] == "val_lass"
    assert {"train_loss", "val_loss"} <= set(job["reason"]["data"]["known_metrics"])
    assert job["progress"]["epoch"] == 0, "it did not train for longer than it took to know"


def test_a_mistake_in_validation_is_found_before_training(pupil: User) -> None:
    job = pupil.ended(pupil.submit(lesson("sanity_check")), deadline_seconds=30)
    assert (job["status"], job["reason"]["code"]) == ("failed", "user_error")
    assert job["reason"]["message"].startswith("in the sanity check of the validation, before training: RuntimeError")
    assert job["reason"]["data"]["stage"] == "sanity_checking"
    assert job["progress"] is None or job["progress"]["eta_seconds"] is None
    left = [one["name"] for one in pupil.client.get(f"/v1/jobs/{job['id']}/artifacts").json()["data"]]
    assert left == ["config.yaml"]
    assert "validation_step" in job["reason"]["traceback"]
    assert "first_step" not in pupil.event_types(job["id"])


def test_what_is_logged_in_the_sanity_check_is_in_no_series(pupil: User) -> None:
    config = yaml.safe_load(lesson("sanity_check"))
    config["model"]["init_args"]["broken"] = False
    config["trainer"] |= {"max_epochs": 1, "log_every_n_steps": 1}
    job = pupil.ended(pupil.submit(config))
    assert job["status"] == "succeeded", job["reason"]
    for name in ("val_loss", "by_hand"):
        points = pupil.client.get(f"/v1/jobs/{job['id']}/metrics/{name}").json()["points"]
        assert points[0]["step"] > 0, name


def test_global_step_counts_the_steps_of_every_optimizer(pupil: User) -> None:
    job = pupil.ended(pupil.submit(lesson("two_optimizers")))
    assert job["status"] == "succeeded", job["reason"]
    progress = job["progress"]
    assert (progress["global_step"], progress["max_steps"], progress["fraction"]) == (60, 60, 1.0)
    assert progress["epoch"] == 1, "20 batches an epoch, of two steps each"
    assert {"grad_norm_0", "grad_norm_1"} <= set(job["metrics"])


def test_gradients_are_clipped_and_their_norm_before_that_is_a_metric(pupil: User) -> None:
    job = pupil.ended(pupil.submit(lesson("clipping")))
    assert job["status"] == "succeeded", job["reason"]
    points = pupil.client.get(f"/v1/jobs/{job['id']}/metrics/grad_norm").json()["points"]
    assert [point["step"] for point in points] == list(range(16))
    assert max(point["value"] for point in points) > 0.5, "what is told is the norm before clipping"


def test_clipping_by_flag_with_manual_optimization_says_what_to_do(pupil: User) -> None:
    config = yaml.safe_load(lesson("two_optimizers"))
    config["trainer"]["gradient_clip_val"] = 0.5
    reason = pupil.ended(pupil.submit(config))["reason"]
    assert "not supported for manual optimization" in reason["message"]
    assert "self.clip_gradients(optimizer, gradient_clip_val=" in reason["message"]


def test_an_older_tutorials_module_is_told_what_has_changed(pupil: User) -> None:
    job = pupil.ended(pupil.submit(lesson("older_tutorial")))
    assert job["reason"]["code"] == "user_error"
    assert "without `optimizer_idx`: set `self.automatic_optimization = False`" in job["reason"]["message"]
    (ignored,) = [event["data"] for event in pupil.events(job["id"]) if event["type"] == "hooks_ignored"]
    assert ignored["hooks"] == [{"class": "OlderDuel", "hook": "on_epoch_end", "instead": "on_train_epoch_end"}]


def test_a_plain_module_is_no_model_but_an_argument_of_one(pupil: User) -> None:
    config = yaml.safe_load(lesson("backbone"))
    plain = config | {"model": config["model"]["init_args"]["backbone"]}
    answer = pupil.client.post("/v1/jobs", json={"config": plain})
    assert answer.status_code == 422
    (fault,) = answer.json()["errors"]
    assert (fault["pointer"], fault["code"]) == ("/config/model/class_path", "wrong_kind")
    assert "lessons.backbone.Encoder is a plain nn.Module" in fault["message"]
    assert "`backbone: {class_path: …}`" in fault["message"]
    kinds = [
        pupil.client.get(f"/v1/catalog/lessons.backbone.{name}").json()["kind"] for name in ("Encoder", "Classifier")
    ]
    assert kinds == ["module", "model"]
    job = pupil.ended(pupil.submit(lesson("backbone")))
    assert job["status"] == "succeeded", job["reason"]
