"""One long outage, scripted: while a job trains, the broker is emptied and started anew, and the database is away."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from core.settings import Settings
from tests.faults.absences import BrokerFlush, BrokerKill, DatabaseKill, DatabaseLock
from tests.faults.caller import Caller
from tests.faults.faults import Fault
from tests.faults.questions import Questions
from tests.faults.report import Verdict, failure, judge
from tests.faults.run import Evidence, Run
from tests.faults.schedule import LONG, Planned, Schedule, Submission
from tests.faults.undisturbed import EPOCHS, Result, results_of, submit
from tests.faults.world import WORKERS, World
from tests.stack import FAST

MODEL = "adversaries"
BATCHES = 50
STEPS = BATCHES * EPOCHS
BEGINS_SECONDS = 2.0
BROKER_SECONDS = 1.0
TRAINS_ON_SECONDS = 1.5
MARGIN_SECONDS = 0.3
"""From the database's end to the first question, and from the last to its return."""

PRODUCTION_PACE = {
    name: str(Settings.model_fields[name.removeprefix("LIGHTYARD_").lower()].default)
    for name in FAST
    if name.endswith("_SECONDS")
}
"""The waits of the service as it is installed."""


@dataclass(frozen=True)
class Endured:
    """What an outage showed; times in seconds."""

    verdict: Verdict
    steps_meanwhile: int
    longest_pause: float
    """Between two steps of the job."""
    answers: Mapping[str, int]
    failure: str = ""

    def __str__(self) -> str:
        answers = ", ".join(f"{count} × {what}" for what, count in sorted(self.answers.items()))
        lines = [
            str(self.verdict),
            f"  {self.steps_meanwhile} of {STEPS} steps while the database was away, the longest pause between two "
            f"{self.longest_pause:.2f} s",
            f"  answered meanwhile: {answers}",
        ]
        return "\n".join([*lines, self.failure] if self.failure else lines)


def endure(folder: Path, backend: str, outage_seconds: float, settings: Mapping[str, str] | None = None) -> Endured:
    """Train a job on a stack of one worker, through an outage of so many seconds."""
    with World(folder, backend, WORKERS[:1], settings) as world:
        return endured(world, outage_seconds)


def endured(world: World, outage_seconds: float) -> Endured:
    """Train a job on a stack that runs, through an outage of so many seconds."""
    size = replace(LONG, batches=BATCHES, step_seconds=(BEGINS_SECONDS + outage_seconds + TRAINS_ON_SECONDS) / STEPS)
    kinds: dict[str, type[Fault]] = {
        kind.kind: kind for kind in (BrokerFlush, BrokerKill, DatabaseKill, DatabaseLock, Questions)
    }
    undisturbed: dict[str, Result] = {}
    run, began = Run(world, script(world.backend, outage_seconds), kinds, size, undisturbed), time.monotonic()
    # Beside it, as fast as it gets: by the outage it is over, or nearly.
    caller = Caller(world.stack.address, world.stack.key)
    jobs = submit(caller, size, [MODEL])
    evidence = run.evidence
    try:
        run.to_the_end()
        undisturbed.update(results_of(caller, jobs))
        verdict = judge(evidence, world.backend, time.monotonic() - began)
    except AssertionError as error:  # a wait came to its deadline, or the job beside it was lost
        verdict = Verdict(0, world.backend, time.monotonic() - began, {"came_to_its_end": [str(error)]})
    caller.close()
    if told := list(outlived(evidence)):
        verdict.violations["outlived"] = told
    shown = _endured(evidence, verdict)
    if verdict.violations:
        what = failure(verdict, evidence, world.folder, f"--outage {outage_seconds:g}")
        shown = replace(shown, failure=what)
    run.caller.close()
    return shown


def script(backend: str, outage_seconds: float) -> Schedule:
    """What happens when."""
    database = DatabaseKill.kind if backend == "production" else DatabaseLock.kind
    return Schedule(
        seed=0,
        submissions=[Submission(0.0, MODEL)],
        faults=[
            Planned(BEGINS_SECONDS, BrokerFlush.kind, 0.0, 0.0),
            Planned(BEGINS_SECONDS, BrokerKill.kind, 0.0, BROKER_SECONDS),
            Planned(BEGINS_SECONDS, database, 0.0, outage_seconds),
            Planned(BEGINS_SECONDS + MARGIN_SECONDS, Questions.kind, 0.0, outage_seconds - 2 * MARGIN_SECONDS),
        ],
    )


def outlived(evidence: Evidence) -> Iterator[str]:
    """Every fault happened, and the job trained all the while, on its first attempt."""
    for happened in evidence.happened:
        if happened.skipped:
            yield f"{happened.fault.kind} was skipped: {happened.skipped}"
    for job_id, job in evidence.jobs.items():
        if (job["status"], len(job["attempts"])) != ("succeeded", 1):
            yield f"{job_id} is {job['status']} after {len(job['attempts'])} attempts"
        if sorted(mark.step for mark in evidence.marks[job_id]) != list(range(STEPS)):
            yield f"{job_id} trained {len(evidence.marks[job_id])} steps, not each of {STEPS} once"
        if _meanwhile(evidence) < STEPS / 4:
            yield f"{job_id} trained only {_meanwhile(evidence)} steps while the database was away"


def _endured(evidence: Evidence, verdict: Verdict) -> Endured:
    moments = sorted(mark.at for marks in evidence.marks.values() for mark in marks)
    asked = [one.fault for one in evidence.happened if isinstance(one.fault, Questions)]
    answers = asked[0].answers if asked else {}
    pauses = [after - before for before, after in pairwise(moments)]
    return Endured(verdict, _meanwhile(evidence), max(pauses, default=0.0), answers)


def _meanwhile(evidence: Evidence) -> int:
    """How many steps were trained while the database was away."""
    away = [one for one in evidence.happened if isinstance(one.fault, DatabaseKill | DatabaseLock)]
    marks = [mark for marks in evidence.marks.values() for mark in marks]
    return sum(one.at <= mark.at <= (one.healed_at or one.at) for one in away for mark in marks)
