"""The invariants on made-up evidence: each sees what it is there to see, and nothing where all is well."""

import time
from datetime import UTC, datetime
from typing import Any, cast

import pytest
import torch

from tests.faults.caller import Caller
from tests.faults.faults import Hit
from tests.faults.fence import Mark
from tests.faults.invariants import AT_ONCE
from tests.faults.kills import TrainerKill, WorkerFreeze
from tests.faults.run import Evidence, Happened
from tests.faults.schedule import Planned, Schedule, Submission
from tests.faults.undisturbed import Result
from tests.faults.world import World

JOB = "job_1"
STEPS = 6
SECOND_FROM = 3
"""The second attempt begins with this step."""


def told(at: float, offset: float) -> str:
    return datetime.fromtimestamp(at + offset, UTC).isoformat()


def checkpoint(value: float = 1.0) -> dict[str, Any]:
    weights = {"w": torch.tensor([value])}
    return {"state_dict": weights, "optimizer_states": [], "lr_schedulers": [], "global_step": STEPS, "epoch": 0}


def series(attempts: list[int]) -> dict[str, list[tuple[int, int | None, Any]]]:
    return {
        "loss": [(step, 0, 0.5 * step) for step in range(STEPS)],
        "attempt": [(step, 0, float(attempt)) for step, attempt in enumerate(attempts)],
    }


@pytest.fixture
def evidence() -> Evidence:
    """A job whose trainer was killed once at second 10, and that went on exactly."""
    offset = time.time() - time.monotonic()
    killed = Happened(TrainerKill(Planned(0.0, "trainer_kill", 0.0, 0.0)), 10.0, Hit("it", frozenset({JOB})))
    killed.healed_at = 10.0
    attempt = {"worker": "worker-1", "resume": None, "resumed_from": None, "steps_lost": None}
    first = attempt | {
        "number": 1,
        "started_at": told(1, offset),
        "ended_at": told(10.5, offset),
        "outcome": "worker_lost",
    }
    second = attempt | {
        "number": 2,
        "started_at": told(11, offset),
        "ended_at": told(20, offset),
        "outcome": "succeeded",
    }
    types = ["created", "claimed", "attempt_lost", "requeued", "claimed", "succeeded"]
    lost = {"attempt": 1, "reason": {"message": "killed"}}
    return Evidence(
        world=cast(World, None),
        caller=cast(Caller, None),
        schedule=Schedule(0, [Submission(0.0, "dropping")], []),
        offset=offset,
        undisturbed={"dropping": Result(series([1] * STEPS), {(STEPS, True): checkpoint()})},
        happened=[killed],
        complaints=[],
        submitted={JOB: "dropping"},
        jobs={
            JOB: {"id": JOB, "status": "succeeded", "reason": None, "attempts": [first, second | {"resume": "exact"}]}
        },
        events={
            JOB: [
                {"type": one, "at": told(number, offset), "data": lost if one == "attempt_lost" else {}}
                for number, one in enumerate(types)
            ]
        },
        results={JOB: Result(series([1, 1, 1, 2, 2, 2]), {(STEPS, True): checkpoint()})},
        marks={
            JOB: [Mark(1, step, 5.0 + step, 100) for step in range(SECOND_FROM + 1)]
            + [Mark(2, step, 10.0 + step, 200) for step in range(SECOND_FROM, STEPS)]
        },
        listed=[JOB],
    )


def broken(evidence: Evidence) -> set[str]:
    return {invariant.__name__ for invariant in AT_ONCE if list(invariant(evidence))}


def test_a_run_in_which_all_went_well_breaks_no_invariant(evidence: Evidence) -> None:
    assert broken(evidence) == set()


def test_a_job_that_is_gone_or_made_twice_is_seen(evidence: Evidence) -> None:
    evidence.listed = []
    assert broken(evidence) == {"accepted_once"}
    evidence.listed = [JOB, "job_2"]
    assert broken(evidence) == {"accepted_once"}


def test_a_job_that_ended_twice_is_seen(evidence: Evidence) -> None:
    evidence.events[JOB].append(evidence.events[JOB][-1])
    assert broken(evidence) == {"ended_once"}


def test_what_happened_before_the_end_may_be_told_after_it_and_nothing_later(evidence: Evidence) -> None:
    late = {"type": "first_step", "at": told(1.5, evidence.offset), "data": {}}
    evidence.events[JOB].append(late)
    assert broken(evidence) == set()
    late["at"] = told(100, evidence.offset)
    assert broken(evidence) == {"ended_once"}


def test_a_job_that_never_ended_is_seen(evidence: Evidence) -> None:
    evidence.jobs[JOB]["status"] = "running"
    assert "ended_once" in broken(evidence)


def test_a_job_that_failed_without_need_is_seen(evidence: Evidence) -> None:
    evidence.jobs[JOB] |= {"status": "failed", "reason": {"code": "user_error", "message": "?"}}
    evidence.events[JOB][-1]["type"] = "failed"
    assert broken(evidence) == {"ended_well"}


def test_two_attempts_at_once_are_seen_by_their_marks(evidence: Evidence) -> None:
    evidence.marks[JOB].append(Mark(1, 4, 14.0, 100))
    assert broken(evidence) == {"one_attempt_at_a_time"}


def test_a_zombie_is_excused_until_it_must_have_learnt_that_it_is_one(evidence: Evidence) -> None:
    planned = Planned(0.0, "worker_freeze", 0.0, 0.0)
    frozen = Happened(WorkerFreeze(planned), 9.0, Hit("worker-1", frozenset({JOB})), healed_at=13.5)
    evidence.happened.append(frozen)
    evidence.marks[JOB].append(Mark(1, 4, 14.0, 100))
    assert broken(evidence) == set()
    evidence.marks[JOB].append(Mark(1, 5, 30.0, 100))
    assert broken(evidence) == {"one_attempt_at_a_time"}


def test_attempts_that_overlap_by_the_services_own_account_are_seen(evidence: Evidence) -> None:
    evidence.jobs[JOB]["attempts"][0]["ended_at"] = told(12, evidence.offset)
    assert broken(evidence) == {"one_attempt_at_a_time"}


@pytest.mark.parametrize("change", ["gap", "double", "value", "name"])
def test_metrics_with_a_gap_a_double_or_another_value_are_seen(evidence: Evidence, change: str) -> None:
    points = evidence.results[JOB].series["loss"]
    match change:
        case "gap":
            del points[2]
        case "double":
            points.insert(2, points[2])
        case "value":
            points[2] = (2, 0, 0.25)
        case "name":
            evidence.results[JOB].series["new"] = []
    assert broken(evidence) == {"metrics_whole"}


def test_a_value_that_an_earlier_attempt_wrote_late_is_seen(evidence: Evidence) -> None:
    evidence.results[JOB].series["attempt"][4] = (4, 0, 1.0)
    assert broken(evidence) == {"metrics_of_the_right_attempt"}


def test_weights_that_differ_in_one_bit_are_seen(evidence: Evidence) -> None:
    value = float(torch.nextafter(torch.tensor(1.0), torch.tensor(2.0)))
    evidence.results[JOB].checkpoints[STEPS, True] = checkpoint(value)
    assert broken(evidence) == {"results_equal"}


def test_a_restart_that_says_it_was_exact_is_seen(evidence: Evidence) -> None:
    evidence.jobs[JOB]["attempts"][1]["resume"] = "restart"
    assert broken(evidence) == {"resumes_told"}


def test_an_attempt_lost_without_a_fault_is_seen(evidence: Evidence) -> None:
    evidence.happened.clear()
    assert broken(evidence) == {"no_needless_losses"}
