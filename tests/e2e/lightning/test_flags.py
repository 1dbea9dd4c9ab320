"""Every flag of the Trainer's: the table in docs/lightning.md, and what the table says, seen in jobs."""

import inspect
import json
import re
from typing import Any

import pytest
import yaml
from pytorch_lightning import Trainer

from tests.e2e.conftest import User
from tests.e2e.lightning.conftest import lesson
from tests.stack import TESTS

PAGE = TESTS.parent / "docs" / "lightning.md"
ROW = re.compile(
    r"^\| `(?P<flag>\w+)` \| (?P<verdict>works|refused|set by the service)\b.*\| `(?P<proof>[\w/.]+::\w+)` \|$"
)


def rows() -> dict[str, tuple[str, str]]:
    """The table: of each flag what it says, and the test that proves it."""
    section = PAGE.read_text().partition("\n## Trainer flags\n")[2].partition("\n## ")[0]
    found = [ROW.match(line) for line in section.splitlines() if line.startswith("| `")]
    assert all(found), "every row of the table is: flag, works | refused | set by the service, …, test"
    return {row["flag"]: (row["verdict"], row["proof"]) for row in found if row}


def seen(pupil: User, job: dict[str, Any]) -> dict[str, Any]:
    """What the module saw of the flags."""
    assert job["status"] == "succeeded", job["reason"]
    line = next(line for line in pupil.log(job["id"]).splitlines() if line.startswith("saw {"))
    return dict(json.loads(line.removeprefix("saw ")))


def witnessed(pupil: User, flags: dict[str, Any], subcommand: str = "fit", **init_args: Any) -> dict[str, Any]:
    """What the module sees of these flags in a job."""
    model = {"class_path": "lessons.witness.Witness", "init_args": init_args}
    config = {"seed_everything": 1, "model": model, "trainer": {"enable_model_summary": False} | flags}
    return seen(pupil, pupil.ended(pupil.submit(config, subcommand=subcommand)))


def test_the_table_has_every_flag_of_the_trainer_and_no_other() -> None:
    assert list(rows()) == [name for name in inspect.signature(Trainer.__init__).parameters if name != "self"]


@pytest.mark.parametrize("flag", rows())
def test_a_flags_row_names_a_test_that_speaks_of_the_flag(flag: str) -> None:
    _, proof = rows()[flag]
    file, _, name = proof.partition("::")
    source = (TESTS / file).read_text()
    _, found, rest = source.partition(f"def {name}(")
    assert found, f"{proof} does not exist"
    body = rest.partition("\ndef ")[0]
    examples = [lesson(one) for one in re.findall(r'lesson\("(\w+)"\)', body)]
    # A test of another file may have the flags beside it.
    text = body + "".join(examples) if file.endswith("test_flags.py") else source + "".join(examples)
    before = source.partition(f"def {name}(")[0].rpartition("\n\n\n")[2]  # what it is parametrized with
    assert re.search(rf"\b{flag}\b", before + text), f"{proof} knows nothing of {flag}"


def test_most_flags_at_once_take_effect(pupil: User) -> None:
    text = lesson("flags")
    flags = yaml.safe_load(text)["trainer"]
    job = pupil.ended(pupil.submit(text))
    saw = seen(pupil, job)
    assert saw["batches"] == {
        "train": 4 * flags["limit_train_batches"],
        "val": 2 * 2 * 2,
        "sanity": 1,
        "test": 0,
        "predict": 0,
    }
    assert saw["epochs"] == flags["max_epochs"]
    assert saw["steps"] == 4 * 6 / flags["accumulate_grad_batches"]
    assert saw["loaders_asked_for"] == 4, "reload_dataloaders_every_n_epochs"
    assert saw["largest_gradient"] == pytest.approx(flags["gradient_clip_val"]), "gradient_clip_algorithm: value"
    assert saw["training"] == {
        "autocast": "torch.bfloat16",
        "detects_anomalies": True,
        "deterministic": True,
        "benchmark": True,
        "weights": "torch.float32",
    }
    assert saw["inference_mode"] is False
    assert (saw["accelerator"], saw["devices"], saw["nodes"]) == ("CPUAccelerator", 1, 1)
    assert (saw["strategy"], saw["precision"]) == ("SingleDeviceStrategy", "bf16-mixed")
    assert {"ModelCheckpoint", "Timer", "ModelSummary"} <= {name.removeprefix("Rich") for name in saw["callbacks"]}
    assert not [name for name in saw["callbacks"] if "ProgressBar" in name], "enable_progress_bar: the API tells"
    assert "Params" in pupil.log(job["id"]), "enable_model_summary"
    points = pupil.client.get(f"/v1/jobs/{job['id']}/metrics/loss").json()["points"]
    assert [point["step"] for point in points] == [1, 3, 5, 7, 9, 11], "log_every_n_steps"
    assert pupil.client.get(f"/v1/jobs/{job['id']}/checkpoints").json()["data"], "enable_checkpointing"
    artifacts = {one["name"] for one in pupil.client.get(f"/v1/jobs/{job['id']}/artifacts").json()["data"]}
    assert [name for name in artifacts if "profiler" in name or name.startswith("fit-")], artifacts


def test_the_flags_that_end_a_run_or_keep_it_going(pupil: User) -> None:
    kept_going = witnessed(pupil, {"overfit_batches": 2, "max_epochs": 9, "min_epochs": 3}, stops=True)
    assert (kept_going["epochs"], kept_going["steps"]) == (3, 6)
    assert len(set(kept_going["first_samples"])) == 1, "overfit_batches: the same batches in the same order"
    assert kept_going["sampler"] == "SequentialSampler"
    at_least = witnessed(pupil, {"limit_train_batches": 2, "max_epochs": 9, "min_steps": 5}, stops=True)
    assert at_least["steps"] == 5
    assert witnessed(pupil, {"max_steps": 3})["steps"] == 3
    assert witnessed(pupil, {"max_time": "00:00:00:00", "max_epochs": 9})["batches"]["train"] <= 1


def test_the_flags_that_leave_out_a_lot(pupil: User) -> None:
    tried = witnessed(pupil, {"fast_dev_run": 2})
    assert tried["batches"] == {"train": 2, "val": 2, "sanity": 0, "test": 0, "predict": 0}
    bare = witnessed(pupil, {"barebones": True, "max_epochs": 1, "enable_model_summary": None})
    assert bare["steps"] == 8
    plain = pupil.net(
        trainer={
            "logger": False,
            "log_every_n_steps": 1,
            "enable_checkpointing": False,
            "enable_autolog_hparams": False,
        }
    )
    job = pupil.ended(pupil.submit(plain))
    assert job["status"] == "succeeded"
    assert job["metrics"], "logger: false, and the service keeps the metrics all the same"
    assert pupil.client.get(f"/v1/jobs/{job['id']}/checkpoints").json()["data"] == []


def test_the_limits_of_testing_and_predicting(pupil: User) -> None:
    limits = {"limit_test_batches": 3, "limit_predict_batches": 5, "accelerator": "cpu"}
    assert witnessed(pupil, limits, "test")["batches"]["test"] == 3
    assert witnessed(pupil, limits, "predict")["batches"]["predict"] == 5


def test_two_devices_share_the_data_unless_told_not_to(pupil: User) -> None:
    two: dict[str, Any] = {"accelerator": "cpu", "devices": 2, "strategy": "ddp", "max_epochs": 1}
    shared = witnessed(pupil, two | {"use_distributed_sampler": True})
    assert (shared["devices"], shared["strategy"], shared["steps"]) == (2, "DDPStrategy", 4)
    assert shared["sampler"] == "DistributedSampler"


@pytest.mark.parametrize(
    ("flag", "value", "place", "why"),
    [
        ("plugins", ["x"], "plugins", "the service sets how files are written"),
        ("default_root_dir", "/etc", "default_root_dir", "the job's own folder"),
        ("model_registry", "mine", "model_registry", "kept by this service"),
        ("logger", {"class_path": "WandbLogger"}, "logger/class_path", "Only CSVLogger"),
        ("profiler", "xla", "profiler", "simple"),
        ("sync_batchnorm", True, "sync_batchnorm", "SyncBatchNorm"),
        (
            "callbacks",
            [{"class_path": "OnExceptionCheckpoint", "init_args": {"dirpath": "x"}}],
            "callbacks/0/class_path",
            "save_on_exception",
        ),
    ],
)
def test_what_is_refused_is_refused_at_submit_with_the_reason(
    pupil: User, flag: str, value: Any, place: str, why: str
) -> None:
    answer = pupil.client.post("/v1/jobs", json={"config": pupil.net(trainer={flag: value, "accelerator": "cpu"})})
    assert answer.status_code == 422
    faults = {fault["pointer"]: fault["message"] for fault in answer.json()["errors"]}
    assert why in faults[f"/config/trainer/{place}"], faults
