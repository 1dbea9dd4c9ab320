"""A short run of the fault suite on each backend; `make faults SEEDS=50` is the long one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from embedded.lineage import bound_to_parent

ROOT = Path(__file__).resolve().parents[2]
SEED = "1"
"""Faults of several kinds on either backend, none of which is waited for."""
SECONDS = 300.0
"""Ten times what it takes on a machine that does nothing else."""


@pytest.mark.timeout(SECONDS + 20)
def test_nothing_is_lost_and_nothing_doubled_when_parts_are_killed_and_go_away() -> None:
    runs = subprocess.run(
        [sys.executable, "-m", "tests.faults", "--short", "--seed", SEED],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
        preexec_fn=bound_to_parent(),
    )
    assert runs.returncode == 0, runs.stdout
    assert "2 runs" in runs.stdout
    assert "0 lost, 0 doubled, 0 unequal" in runs.stdout
