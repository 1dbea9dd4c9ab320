"""Lightning's own demo classes as jobs, by class path."""

import pytest

from tests.e2e.conftest import User
from tests.e2e.lightning.conftest import lesson


@pytest.mark.parametrize(
    ("demo", "steps"), [("demo_boring", 64), ("demo_manual", 10), ("demo_transformer", 5), ("demo_lstm", 3)]
)
def test_a_demo_of_lightnings_runs_by_its_class_path(pupil: User, demo: str, steps: int) -> None:
    job = pupil.ended(pupil.submit(lesson(demo)))
    assert job["status"] == "succeeded", job["reason"]
    assert job["progress"]["global_step"] == steps


def test_a_demo_that_cannot_download_its_data_says_so_at_once(pupil: User) -> None:
    text = lesson("demo_transformer")
    without_data = text.replace("data:\n  class_path: lessons.words.Words\n", "")
    assert without_data != text
    job = pupil.ended(pupil.submit(without_data))
    assert job["status"] == "failed"
    assert "raw.githubusercontent.com" in job["reason"]["message"]
