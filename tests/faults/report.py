"""What many runs come to: a table of what was done to the service, and what came of it."""

import json
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

from tests.faults.fence import next_step, steps_lost
from tests.faults.invariants import violations
from tests.faults.run import Evidence, Happened

HARMLESS = frozenset({"broker_flush", "spool_junk", "stray_files", "save_now"})
"""Kinds beside which a recovery still counts as one that nothing else disturbed."""
LOST = frozenset({"accepted_once", "ended_once", "ended_well"})
DOUBLED = frozenset({"one_attempt_at_a_time", "metrics_whole", "metrics_of_the_right_attempt"})
CHECKPOINTS = shutil.ignore_patterns("*.ckpt", "outbox")
UNEQUAL = frozenset({"results_equal"})


@dataclass
class Verdict:
    """What one run showed."""

    seed: int
    backend: str
    seconds: float
    violations: dict[str, list[str]]
    jobs: int = 0
    attempts_lost: int = 0
    steps_lost: int = 0
    leftovers: int = 0
    injected: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    recoveries: list[tuple[str, float, bool]] = field(default_factory=list)
    """Kind of fault, seconds from it to the next training step of a job that it hit, whether nothing else disturbed."""

    def __str__(self) -> str:
        state = "ok" if not self.violations else "FAILED: " + ", ".join(self.violations)
        return (
            f"seed {self.seed:4d} {self.backend:10s} {self.seconds:5.1f} s  {self.jobs} jobs  "
            f"{len(self.injected)} faults ({' '.join(self.injected)})  {self.attempts_lost} attempts lost  {state}"
        )


def judge(evidence: Evidence, backend: str, seconds: float) -> Verdict:
    """The verdict on a run."""
    verdict = Verdict(evidence.schedule.seed, backend, seconds, violations(evidence))
    verdict.jobs = len(evidence.jobs)
    verdict.leftovers = evidence.leftovers
    for job in evidence.jobs.values():
        verdict.attempts_lost += sum(one["outcome"] in ("worker_lost", "preempted") for one in job["attempts"])
    verdict.steps_lost = sum(map(steps_lost, evidence.marks.values()))
    for happened in evidence.happened:
        if happened.hit is None:
            verdict.skipped.append((happened.fault.kind, happened.skipped or ""))
            continue
        verdict.injected.append(happened.fault.kind)
        for job_id in happened.hit.jobs & evidence.jobs.keys():
            mark = next_step(evidence.marks[job_id], happened.at, of_later_attempt=happened.fault.kills)
            if mark is not None:
                alone = not any(
                    _disturbs(other, happened.at, mark.at) for other in evidence.happened if other is not happened
                )
                verdict.recoveries.append((happened.fault.kind, mark.at - happened.at, alone))
    return verdict


def table(verdicts: Iterable[Verdict]) -> str:
    """All verdicts in one table, and the sums below it."""
    verdicts = list(verdicts)
    kinds = sorted({kind for one in verdicts for kind in (*one.injected, *(kind for kind, _ in one.skipped))})
    lines = [
        "seconds from the fault to the next training step of each job that it hit; 'alone': nothing else disturbed it",
        f"{'fault':16s} {'injected':>8s} {'skipped':>8s} {'jobs hit':>8s} "
        f"{'median s':>9s} {'max s':>9s} {'alone':>6s} {'median s':>9s} {'max s':>9s}",
    ]
    for kind in kinds:
        injected = sum(one.injected.count(kind) for one in verdicts)
        skipped = sum(kind == other for one in verdicts for other, _ in one.skipped)
        found = [(seconds, alone) for one in verdicts for other, seconds, alone in one.recoveries if other == kind]
        every, quiet = [seconds for seconds, _ in found], [seconds for seconds, alone in found if alone]
        lines.append(
            f"{kind:16s} {injected:8d} {skipped:8d} {len(every):8d} {_figures(every)} {len(quiet):6d} {_figures(quiet)}"
        )
    reasons = sorted({f"{kind} was skipped: {why}" for one in verdicts for kind, why in one.skipped})
    failed = [one for one in verdicts if one.violations]
    lines += [
        "",
        *reasons,
        "",
        f"{len(verdicts)} runs, {sum(one.jobs for one in verdicts)} jobs, "
        f"{sum(len(one.injected) for one in verdicts)} faults, "
        f"{sum(one.attempts_lost for one in verdicts)} attempts lost and recovered, "
        f"{sum(one.steps_lost for one in verdicts)} steps trained again, "
        f"{sum(one.leftovers for one in verdicts)} files left behind and swept",
        f"{_runs(verdicts, LOST)} lost, {_runs(verdicts, DOUBLED)} doubled, {_runs(verdicts, UNEQUAL)} unequal, "
        f"{len(failed)} runs with any violation",
    ]
    lines += [f"failed: --seed {one.seed} --backend {one.backend}  ({', '.join(one.violations)})" for one in failed]
    return "\n".join(lines)


def failure(verdict: Verdict, evidence: Evidence, folder: Path, what: str = "") -> str:
    """A failed run in full: how to replay it, its schedule, what really happened, what was wrong, where logs lie.

    `what`: the options of a run that is not a seed's.
    """
    began = min((one.at for one in evidence.happened), default=0.0)
    lines = [
        f"seed {verdict.seed} on {verdict.backend} failed. To replay it, as far as time allows:",
        f"  python -m tests.faults {what or f'--seed {verdict.seed}'} --backend {verdict.backend}",
        "planned:",
        *(f"  {line}" for line in str(evidence.schedule).splitlines()),
        "happened (seconds after the first fault):",
        *(f"  {_told(one, began)}" for one in evidence.happened),
        "violations:",
        *(f"  {name}: {one}" for name, told in verdict.violations.items() for one in told),
        f"logs: {folder / 'logs'}; evidence: {write_evidence(evidence, folder)}",
    ]
    return "\n".join(lines)


def write_evidence(evidence: Evidence, folder: Path) -> Path:
    """Keep what a run showed, as JSON."""
    path = folder / f"evidence-{evidence.schedule.seed}.json"
    told = {
        "offset": evidence.offset,
        "happened": [
            {"kind": one.fault.kind, "at": one.at, "healed_at": one.healed_at, "skipped": one.skipped}
            | ({"what": one.hit.what, "jobs": sorted(one.hit.jobs)} if one.hit else {})
            for one in evidence.happened
        ],
        "jobs": evidence.jobs,
        "events": evidence.events,
        "marks": {job_id: [asdict(mark) for mark in marks] for job_id, marks in evidence.marks.items()},
        "metrics": {job_id: result.series for job_id, result in evidence.results.items()},
    }
    path.write_text(json.dumps(told, indent=1))
    for worker in evidence.world.workers:  # the small disk goes with this process
        kept = folder / f"runs-of-{worker}"
        shutil.copytree(evidence.world.runs(worker), kept, ignore=CHECKPOINTS, dirs_exist_ok=True)
    return path


def _told(happened: Happened, began: float) -> str:
    if happened.hit is None:
        return f"{happened.at - began:6.2f} s {happened.fault.kind} skipped: {happened.skipped}"
    healed = "" if happened.healed_at is None else f", healed at {happened.healed_at - began:.2f} s"
    return f"{happened.at - began:6.2f} s {happened.fault.kind}: {happened.hit.what}{healed}"


def _disturbs(other: Happened, since: float, until: float) -> bool:
    if other.hit is None or other.fault.kind in HARMLESS:
        return False
    return other.at <= until and since <= (other.healed_at or other.at) + 1.0


def _runs(verdicts: Iterable[Verdict], invariants: frozenset[str]) -> int:
    return sum(len(told) for one in verdicts for name, told in one.violations.items() if name in invariants)


def _figures(seconds: list[float]) -> str:
    return f"{median(seconds):9.2f} {max(seconds):9.2f}" if seconds else f"{'–':>9s} {'–':>9s}"
