import os
import subprocess
import sys
from pathlib import Path

import pytest

from embedded.home import only_stack_in
from embedded.lineage import bound_to_parent

DEMO_SECONDS = 400.0
"""Ten times what it takes on a machine that does nothing else."""


def run_demo(home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "embedded.demo"],
        # One thread: two that spin for each other on busy cores are many times slower.
        env=os.environ | {"LIGHTYARD_HOME": str(home), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=DEMO_SECONDS,
        preexec_fn=bound_to_parent(),
    )


@pytest.mark.timeout(DEMO_SECONDS + 20)
def test_the_demo_ends_with_the_accuracy_and_the_checkpoint(home: Path) -> None:
    demo = run_demo(home)
    assert demo.returncode == 0, demo.stdout
    accuracy, checkpoint = demo.stdout.strip().splitlines()[-2:]
    assert float(accuracy.removeprefix("test accuracy: ")) >= 0.98
    assert Path(checkpoint.removeprefix("checkpoint: ")).stat().st_size > 0


def test_a_demo_that_cannot_start_its_stack_says_why_and_where_the_log_is(home: Path) -> None:
    with only_stack_in(home / "demo"):
        demo = run_demo(home)
    assert demo.returncode == 1
    assert f"process {os.getpid()} already serves" in demo.stdout
    assert str(home / "demo" / "stack.log") in demo.stdout
