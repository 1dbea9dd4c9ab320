"""Several ranks on one machine; on several machines they are in `tests/e2e/test_nodes.py`."""

from typing import Any

import pytest

from tests.e2e.conftest import User
from tests.e2e.lightning.conftest import lesson


def values(user: User, job_id: str, name: str) -> list[float]:
    points = user.client.get(f"/v1/jobs/{job_id}/metrics/{name}").json()["points"]
    assert [point["step"] for point in points] == list(range(len(points))), "each step once"
    return [point["value"] for point in points]


def one_rank(what: str, **init_args: Any) -> dict[str, Any]:
    """A job of two ranks of which the second misbehaves."""
    flags = {"devices": 2, "accelerator": "cpu", "strategy": "ddp_find_unused_parameters_true", "log_every_n_steps": 1}
    flags |= {"max_steps": 4, "enable_model_summary": False, "enable_checkpointing": False}
    arguments = {"what": what, "rank": 1, "batches": 8} | init_args
    return {
        "seed_everything": 7,
        "model": {"class_path": "misbehaving.OneRank", "init_args": arguments},
        "trainer": flags,
    }


def test_two_ranks_learn_what_one_device_learns_with_the_same_global_batch(pupil: User) -> None:
    alone, both = pupil.submit(lesson("ddp_alone")), pupil.submit(lesson("ddp"))
    for job_id in (alone, both):
        job = pupil.ended(job_id)
        assert job["status"] == "succeeded", job["reason"]
    assert job["attempts"][0]["devices"] == ["cpu:0", "cpu:1"]
    assert (job["summary"]["world_size"], job["summary"]["effective_batch_size"]) == (2, 64)

    curve = values(pupil, alone, "loss")
    assert len(curve) == 54
    assert curve[-1] < curve[0] / 3
    assert values(pupil, both, "loss") == pytest.approx(curve, abs=1e-4)
    assert values(pupil, both, "loss_of_rank_0") != values(pupil, both, "loss"), "its own half alone"
    assert set(values(pupil, both, "images")) == {64.0}, "a sum over the ranks"

    for rank in (0, 1):
        log = pupil.client.get(f"/v1/jobs/{both}/logs", params={"rank": rank})
        assert f"rank {rank} of 2: 585 images by DistributedSampler" in log.text
        assert f"rank {1 - rank} of 2" not in log.text
        assert int(log.headers["X-Log-Size"]) == len(log.content)
    assert pupil.log(both) == pupil.client.get(f"/v1/jobs/{both}/logs", params={"rank": 0}).text
    assert len(pupil.client.get(f"/v1/jobs/{both}/checkpoints").json()["data"]) == 1, "saved by the first rank, once"
    assert pupil.event_types(both).count("first_step") == 1


def test_a_rank_that_is_killed_has_the_whole_job_go_on_from_where_it_was(pupil: User, tmp_path_factory: Any) -> None:
    once = str(tmp_path_factory.mktemp("rank") / "once")
    job = pupil.ended(pupil.submit(one_rank("die", once=once)))
    assert job["status"] == "succeeded", job["reason"]
    assert [one["outcome"] for one in job["attempts"]] == ["worker_lost", "succeeded"]


def test_what_one_rank_raises_is_the_reason_and_not_that_others_lost_it(pupil: User) -> None:
    job = pupil.ended(pupil.submit(one_rank("raise")))
    assert (job["status"], job["attempt"]) == ("failed", 1)
    assert (job["reason"]["code"], job["reason"]["message"]) == ("user_error", "ValueError: the user's own mistake")
