"""Mixed and other precisions: what runs here, and what is refused because no device can."""

from typing import Any

import pytest

from tests.e2e.conftest import User
from tests.e2e.lightning.conftest import lesson
from tests.e2e.lightning.test_flags import seen


@pytest.mark.parametrize(
    ("precision", "effective", "autocast", "weights"),
    [
        ("bf16-mixed", "bf16-mixed", "torch.bfloat16", "torch.float32"),
        ("16-mixed", "bf16-mixed", "torch.bfloat16", "torch.float32"),
        ("bf16-true", "bf16-true", None, "torch.bfloat16"),
        ("16-true", "16-true", None, "torch.float16"),
        ("64-true", "64-true", None, "torch.float64"),
        ("32", "32-true", None, "torch.float32"),
    ],
)
def test_a_precision_is_what_the_module_computes_with(
    pupil: User, precision: str, effective: str, autocast: str | None, weights: str
) -> None:
    saw: dict[str, Any] = seen(pupil, pupil.ended(pupil.submit(lesson("precision").replace("bf16-mixed", precision))))
    assert saw["precision"] == effective, "16-mixed is bfloat16 on a CPU"
    assert (saw["training"]["autocast"], saw["training"]["weights"]) == (autocast, weights)


@pytest.mark.parametrize("accelerator", ["cpu", "auto"])
def test_a_precision_that_no_device_has_is_refused_at_submit(pupil: User, accelerator: str) -> None:
    flags = {"accelerator": accelerator, "precision": "transformer-engine"}
    answer = pupil.client.post("/v1/jobs", json={"config": pupil.net(trainer=flags)})
    assert answer.status_code == 422
    (fault,) = answer.json()["errors"]
    assert fault["pointer"] == "/config/trainer/precision"
    assert "Transformer Engine needs an NVIDIA GPU" in fault["message"]
