"""How jobs and their attempts must have ended."""

from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from typing import Any

from core.states import FINAL
from tests.faults.fence import first_steps
from tests.faults.run import Evidence, Happened

ZOMBIE_SECONDS = 4.0
"""From the end of a fault until a worker that lost its lease meanwhile must have killed its trainer."""
BLAME_SECONDS = 8.0
"""From the end of a fault until an attempt that it lost is given up: a lease, and the look for it."""


def accepted_once(evidence: Evidence) -> Iterator[str]:
    """Every job that was accepted is there, and none twice, however often it was asked for."""
    for job_id in evidence.submitted.keys() - set(evidence.listed):
        yield f"{job_id} was accepted and is gone"
    for job_id in set(evidence.listed) - evidence.submitted.keys():
        yield f"{job_id} exists, though no caller was told of it"
    if len(evidence.submitted) != len(evidence.schedule.submissions):
        yield f"{len(evidence.submitted)} jobs for {len(evidence.schedule.submissions)} submissions"


def ended_once(evidence: Evidence) -> Iterator[str]:
    """Every job has ended, its last event says so, and no other does.

    The last by its time: what a dead worker had not shipped of an attempt that is over may arrive after the job's end.
    """
    for job_id, job in evidence.jobs.items():
        types = [event["type"] for event in sorted(evidence.events[job_id], key=lambda event: _seconds(event["at"]))]
        ends = [one for one in types if one in FINAL]
        if job["status"] not in FINAL:
            yield f"{job_id} has not ended: it is {job['status']}, its events {types[-8:]}"
        elif ends != [job["status"]] or types[-1] != job["status"] or types.count("created") != 1:
            yield f"{job_id} is {job['status']}, its events are {types}"


def ended_well(evidence: Evidence) -> Iterator[str]:
    """A job has succeeded, unless it was cancelled, or its disk was full."""
    cancelled = _jobs_hit(evidence, "cancel")
    for job_id, job in evidence.jobs.items():
        code = (job["reason"] or {}).get("code")
        match job["status"], code:
            case "succeeded", _:
                continue
            case "cancelled", "cancelled_by_user" if job_id in cancelled:
                continue
            case "failed", "out_of_disk" if _saw(evidence, job, "disk_full"):
                continue
            case status, _ if status in FINAL:
                told = {name: text for name, text in (job["reason"] or {}).items() if name != "traceback"}
                yield f"{job_id} ({evidence.submitted[job_id]}) is {status}: {told}"


def one_attempt_at_a_time(evidence: Evidence) -> Iterator[str]:
    """By the service's own account attempts follow each other; by the trainers' marks no two train at once.

    A worker that was stopped or cut off may go on until it learns that its lease is lost, and no longer.
    """
    for job_id, job in evidence.jobs.items():
        tries = job["attempts"]
        if [one["number"] for one in tries] != list(range(1, len(tries) + 1)):
            yield f"{job_id} has attempts {[one['number'] for one in tries]}"
        for before, after in pairwise(tries):
            if before["ended_at"] is None or _seconds(before["ended_at"]) > _seconds(after["started_at"]):
                yield f"{job_id}: attempt {after['number']} began before {before['number']} had ended"
        first: dict[int, float] = {}
        for mark in evidence.marks[job_id]:
            first.setdefault(mark.attempt, mark.at)
        workers = {one["number"]: one["worker"] for one in tries}
        for mark in evidence.marks[job_id]:
            later = min((at for attempt, at in first.items() if attempt > mark.attempt), default=float("inf"))
            worker = workers.get(mark.attempt, "")
            if mark.at > later and not any(_excuses(one, job_id, worker, mark.at) for one in evidence.happened):
                yield (
                    f"{job_id}: attempt {mark.attempt} (pid {mark.pid}, {worker}) trained step {mark.step} "
                    f"{mark.at - later:.3f} s after a later one had begun"
                )
                break


def resumes_told(evidence: Evidence) -> Iterator[str]:
    """An attempt that says `restart` began at step 0, one that says `exact` did not.

    Unless it went on from within the first step: gradients of some batches were there, and no step was done.
    """
    for job_id, job in evidence.jobs.items():
        began = first_steps(evidence.marks[job_id])
        events = [event["data"] for event in evidence.events[job_id] if event["type"] == "checkpoint_saved"]
        saved = {data["checkpoint_id"]: data["step"] for data in events}
        for one in job["attempts"][1:]:
            first = began.get(one["number"])
            later = one["resume"] == "exact" and saved.get(one["resumed_from"], 1) > 0
            if first is not None and later != (first > 0):
                yield f"{job_id}: attempt {one['number']} says {one['resume']!r} and began at step {first}"


def no_needless_losses(evidence: Evidence) -> Iterator[str]:
    """No attempt was lost that no fault explains: training goes on while other parts are away."""
    for job_id, job in evidence.jobs.items():
        for one in job["attempts"]:
            if one["outcome"] not in ("worker_lost", "preempted"):
                continue
            blamed = [
                happened
                for happened in evidence.happened
                if happened.fault.costs
                and happened.concerns(job_id, one["worker"])
                and _during(evidence, one, happened, BLAME_SECONDS)
            ]
            if not blamed:
                told = [e["data"] for e in evidence.events[job_id] if e["type"] == "attempt_lost"]
                why = [data["reason"]["message"] for data in told if data["attempt"] == one["number"]]
                yield f"{job_id}: attempt {one['number']} on {one['worker']} was lost without need: {why}"


def nothing_odd(evidence: Evidence) -> Iterator[str]:
    """No process ended by itself, and the API's answers were those that it promises."""
    yield from evidence.complaints


def _excuses(happened: Happened, job_id: str, worker: str, at: float) -> bool:
    return (
        happened.fault.zombies
        and happened.concerns(job_id, worker)
        and happened.at <= at <= (happened.healed_at or at) + ZOMBIE_SECONDS
    )


def _saw(evidence: Evidence, job: dict[str, Any], kind: str) -> bool:
    """Whether one of a job's attempts ran on a worker while a fault of the kind hit that."""
    return any(
        happened.concerns(job["id"], one["worker"]) and _during(evidence, one, happened, 1.0)
        for one in job["attempts"]
        for happened in evidence.happened
        if happened.fault.kind == kind
    )


def _during(evidence: Evidence, attempt: dict[str, Any], happened: Happened, after_seconds: float) -> bool:
    """Whether an attempt that has ended was under way while a fault was, or soon after it was healed."""
    started, ended = (_seconds(attempt[name]) - evidence.offset for name in ("started_at", "ended_at"))
    return happened.at <= ended and started <= (happened.healed_at or happened.at) + after_seconds


def _jobs_hit(evidence: Evidence, kind: str) -> set[str]:
    return {job for one in evidence.happened if one.fault.kind == kind and one.hit for job in one.hit.jobs}


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()
