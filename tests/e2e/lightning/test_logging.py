"""What a module logs is what the API tells."""

import csv
import io
import json
import struct
import zlib
from typing import Any

import pytest

from tests.e2e.conftest import User
from tests.e2e.lightning.conftest import lesson


@pytest.fixture(scope="module")
def diary(school: Any) -> tuple[User, dict[str, Any]]:
    """A job that logged all there is, once it has ended."""
    user = User(school)
    job = user.ended(user.submit(lesson("logging")))
    assert job["status"] == "succeeded", job["reason"]
    return user, job


def artifact(user: User, job_id: str, name: str) -> bytes:
    answer = user.client.get(f"/v1/jobs/{job_id}/artifacts/{name}")
    assert answer.status_code == 200, answer.text
    return answer.content


def artifacts(user: User, job_id: str) -> dict[str, dict[str, Any]]:
    listed = user.client.get(f"/v1/jobs/{job_id}/artifacts", params={"limit": 200}).json()["data"]
    return {one["name"]: one for one in listed}


def points(user: User, job_id: str, name: str) -> list[tuple[int, int, float]]:
    answer = user.client.get(f"/v1/jobs/{job_id}/metrics/{name}")
    assert answer.status_code == 200, f"{name}: {answer.text}"
    return [(one["step"], one["epoch"], one["value"]) for one in answer.json()["points"]]


def test_every_logged_value_is_a_point_with_the_step_and_epoch_that_csv_logger_writes(
    diary: tuple[User, dict[str, Any]],
) -> None:
    user, job = diary
    table = csv.DictReader(io.StringIO(artifact(user, job["id"], "lightning_logs/version_0/metrics.csv").decode()))
    expected: dict[str, list[tuple[int, int, float]]] = {}
    for row in table:
        for name, value in row.items():
            if name not in ("step", "epoch") and value:
                expected.setdefault(name, []).append((int(row["step"]), int(row["epoch"]), float(value)))
    told = ["loss_step", "loss_epoch", "largest", "weight", "bias", "val_mse", "val_mae"]
    assert set(expected) == {*told, "val_loss/dataloader_idx_0", "val_loss/dataloader_idx_1"}
    for name, values in expected.items():
        assert points(user, job["id"], name) == values, name
    # By the numbers: 5 steps an epoch, every second logged; what is logged per epoch, at its last step.
    assert [point[:2] for point in points(user, job["id"], "loss_step")] == [
        (step, step // 5) for step in (1, 3, 5, 7, 9, 11, 13)
    ]
    assert [point[:2] for point in points(user, job["id"], "loss_epoch")] == [(4, 0), (9, 1), (14, 2)]
    # What the module logs through the experiment has the step that it says.
    assert points(user, job["id"], "batches") == [(step, step // 5, step % 5) for step in range(15)]


def test_images_histograms_texts_and_sounds_are_artifacts_by_tag_and_step(diary: tuple[User, dict[str, Any]]) -> None:
    user, job = diary
    found = artifacts(user, job["id"])
    names = {f"images/line/now/step-{epoch:08d}.png" for epoch in range(3)}
    names |= {f"images/line/twice/step-{epoch:08d}.png" for epoch in range(3)}
    names |= {f"audio/tone/step-{epoch:08d}.wav" for epoch in range(3)}
    names |= {f"texts/note/step-{step:08d}.txt" for step in (4, 9, 14)}
    names |= {f"histograms/weights/step-{step:08d}.json" for step in range(15)}
    assert names <= set(found)
    assert found["images/line/now/step-00000002.png"]["media_type"] == "image/png"
    image = artifact(user, job["id"], "images/line/twice/step-00000002.png")
    assert struct.unpack(">II", image[16:24]) == (128, 48)
    length = struct.unpack(">I", image[33:37])[0]
    assert len(zlib.decompress(image[41 : 41 + length])) == 48 * (1 + 128)
    assert artifact(user, job["id"], "texts/note/step-00000014.txt").startswith(b"After epoch 2: **")
    weights = json.loads(artifact(user, job["id"], "histograms/weights/step-00000000.json"))
    assert sum(weights["counts"]) == weights["count"] == 1
    ignored = [event["data"] for event in user.events(job["id"]) if event["type"] == "logging_ignored"]
    assert [one["call"] for one in ignored] == ["add_video"]
