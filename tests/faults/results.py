"""What jobs must have come to: the metrics and the weights that they come to undisturbed."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from tests.faults.fence import first_steps
from tests.faults.run import Evidence
from tests.faults.undisturbed import OWN, equal


def metrics_whole(evidence: Evidence) -> Iterator[str]:
    """Each step's values are there once, and are an undisturbed run's; a job ended early has the first of them."""
    for job_id, result in evidence.results.items():
        model, succeeded = evidence.submitted[job_id], evidence.jobs[job_id]["status"] == "succeeded"
        expected = evidence.undisturbed[model].series
        if succeeded and result.series.keys() != expected.keys():
            yield f"{job_id} ({model}) has the metrics {sorted(result.series)}, undisturbed {sorted(expected)}"
        for name, points in result.series.items():
            wanted = expected.get(name, [])
            if name == OWN:
                wanted = [(step, epoch, None) for step, epoch, _ in wanted]
                points = [(step, epoch, None) for step, epoch, _ in points]
            if points != (wanted if succeeded else wanted[: len(points)]):
                yield f"{job_id} ({model}): {name} {_difference(points, wanted)}"


def metrics_of_the_right_attempt(evidence: Evidence) -> Iterator[str]:
    """Each step's values come from the last attempt that trained it: nothing of an earlier one came after."""
    for job_id, result in evidence.results.items():
        if evidence.jobs[job_id]["status"] != "succeeded":
            continue
        began = first_steps(evidence.marks[job_id])
        wrong = []
        for step, _, attempt in result.series.get(OWN, []):
            right = max((number for number, first in began.items() if first <= step), default=0)
            if attempt != right:
                wrong.append(f"step {step} is of attempt {attempt:g}, not {right}")
        if wrong:
            yield f"{job_id}: {len(wrong)} steps, {'; '.join(wrong[:4])} (attempts began at {began})"


def results_equal(evidence: Evidence) -> Iterator[str]:
    """Weights, optimizers, schedules and places are equal, bit for bit, in the same checkpoints as undisturbed."""
    for job_id, result in evidence.results.items():
        if evidence.jobs[job_id]["status"] != "succeeded":
            continue
        model = evidence.submitted[job_id]
        expected = evidence.undisturbed[model].checkpoints
        if result.checkpoints.keys() != expected.keys():
            yield f"{job_id} ({model}) has checkpoints {sorted(result.checkpoints)}, undisturbed {sorted(expected)}"
        for key in result.checkpoints.keys() & expected.keys():
            for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch"):
                if not equal(result.checkpoints[key][part], expected[key][part]):
                    yield f"{job_id} ({model}): {part} differs in the checkpoint of step {key[0]}"


def _difference(points: list[Any], wanted: list[Any]) -> str:
    steps, right = [point[0] for point in points], [point[0] for point in wanted]
    missing, double = sorted(set(right) - set(steps)), sorted(step for step, n in Counter(steps).items() if n > 1)
    if missing or double or len(points) > len(wanted):
        return f"has {len(points)} of {len(wanted)} points; missing {missing[:10]}, double {double[:10]}"
    other = [(mine, its) for mine, its in zip(points, wanted, strict=False) if mine != its]
    return f"differs in {len(other)} points from an undisturbed run, first {other[0]}"
