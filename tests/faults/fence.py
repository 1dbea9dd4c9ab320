"""The fence: what trainers wrote, step by step, outside of all that Lightyard knows of."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Mark:
    """A training step that began: `at` in seconds of the machine's monotonic clock, as in every process."""

    attempt: int
    step: int
    at: float
    pid: int


def read_marks(fence: Path) -> list[Mark]:
    """All marks of a job, in the order in which they were written; a job that never trained has none."""
    if not fence.exists():
        return []
    marks = []
    for line in fence.read_text().splitlines():
        attempt, step, at, pid = line.split()
        marks.append(Mark(int(attempt), int(step), float(at), int(pid)))
    return marks


def first_steps(marks: Sequence[Mark]) -> dict[int, int]:
    """The step with which each attempt began, by attempt."""
    first: dict[int, int] = {}
    for mark in marks:
        first.setdefault(mark.attempt, mark.step)
    return first


def next_step(marks: Sequence[Mark], at: float, *, of_later_attempt: bool) -> Mark | None:
    """The first step after a moment: of an attempt later than the one that trained until then, or of any."""
    before = max((mark.attempt for mark in marks if mark.at <= at), default=0)
    later = (mark for mark in marks if mark.at > at and (not of_later_attempt or mark.attempt > before))
    return min(later, key=lambda mark: mark.at, default=None)


def steps_lost(marks: Sequence[Mark]) -> int:
    """Steps that were trained more than once because an attempt was lost."""
    lost = 0
    first = {}
    for mark in marks:
        if mark.attempt not in first:
            first[mark.attempt] = mark
            reached = max((one.step + 1 for one in marks if one.at < mark.at), default=0)
            lost += max(0, reached - mark.step)
    return lost
