"""What must hold after any run. Each invariant is a function from the evidence to its violations, in words."""

import time
from collections.abc import Callable, Iterator

from tests.faults.endings import (
    accepted_once,
    ended_once,
    ended_well,
    no_needless_losses,
    nothing_odd,
    one_attempt_at_a_time,
    resumes_told,
)
from tests.faults.remains import files_match_rows, no_orphan_process, no_orphan_row
from tests.faults.results import metrics_of_the_right_attempt, metrics_whole, results_equal
from tests.faults.run import Evidence

Invariant = Callable[[Evidence], Iterator[str]]

SETTLE_SECONDS = 15.0
"""Longest time until what died with a job is gone."""

AT_ONCE: list[Invariant] = [
    accepted_once,
    ended_once,
    ended_well,
    one_attempt_at_a_time,
    metrics_whole,
    metrics_of_the_right_attempt,
    results_equal,
    resumes_told,
    no_needless_losses,
    nothing_odd,
]
AFTER_A_WHILE: list[Invariant] = [files_match_rows, no_orphan_process, no_orphan_row]
"""What dies with a job needs a moment to be gone: asked again for up to `SETTLE_SECONDS`."""


def violations(evidence: Evidence) -> dict[str, list[str]]:
    """All violations, by the invariant's name."""
    found = {invariant.__name__: list(invariant(evidence)) for invariant in AT_ONCE}
    deadline = time.monotonic() + SETTLE_SECONDS
    for invariant in AFTER_A_WHILE:
        while (left := list(invariant(evidence))) and time.monotonic() < deadline:
            time.sleep(0.5)
        found[invariant.__name__] = left
    return {name: told for name, told in found.items() if told}
