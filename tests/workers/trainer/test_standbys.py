"""Trainers that wait for their run: what they leave is what a trainer leaves that was forked for it."""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from pytorch_lightning.utilities.data import warning_cache

import workers.standbys
from core.bell import COMING_BYTES_MAX
from tests.waiting import wait_until
from tests.workers.trainer.runs import (
    MODULES,
    Case,
    assert_same_end,
    ended,
    prepared,
    rest,
)
from workers.forkserver import Fork
from workers.rundir import RunDir
from workers.standbys import Standbys
from workers.trainer.rehearsal import rehearse

DROPPING = Case("Dropping")


@pytest.fixture
def standbys(warm_fork_server: None) -> Iterator[Standbys]:
    made = Standbys(MODULES, threads=1)
    yield made
    made.close()


@pytest.mark.parametrize(
    "foretold",
    [
        [],
        [DROPPING.config()],
        [DROPPING.config(), Case("Dropping", {"scheduler": "none"}).config()],
        [{"model": 10**30}],
    ],
    ids=["nothing foretold", "its config foretold", "another config foretold at last", "nonsense foretold"],
)
def test_a_standby_leaves_what_a_fork_leaves(
    standbys: Standbys, undisturbed: Any, tmp_path: Path, foretold: list[dict[str, Any]]
) -> None:
    run = prepared(tmp_path, DROPPING)
    standbys.keep(["cpu:1"])  # slots of the CPU are alike
    standby = standbys._waiting["cpu"]
    wait_until(lambda: standby.is_ready, what="the standby is ready", deadline_seconds=60.0)
    for config in foretold:
        wait_until(lambda: standby.is_ready and standby.reads_since is None, what="it has read the one before")
        standbys.foretell(["cpu:0"], json.dumps(config), claimed=True)
    fork = standbys.take(["cpu:0"], str(run.path))
    assert fork is not None
    assert standbys.take(["cpu:0"], "another") is None, "a standby has one run"
    ended((run, [fork]))
    outcome = run.read_outcome()
    assert outcome is not None
    assert outcome.status == "succeeded", outcome.traceback
    expected: RunDir = undisturbed(DROPPING)
    assert_same_end(expected, run)
    assert rest(run) == rest(expected)


def test_there_is_no_standby_for_other_devices_or_for_several(standbys: Standbys) -> None:
    standbys.keep(["cpu:0"])
    waiting = standbys._waiting["cpu"].fork
    wait_until(lambda: standbys._waiting["cpu"].is_ready, what="the standby is ready", deadline_seconds=60.0)
    assert standbys.take(["gpu:0"], "path") is None
    assert standbys.take(["cpu:0", "cpu:1"], "path") is None
    standbys.keep(["cpu:0", "cpu:1", "tpu:0"])
    assert [one.fork.pid for one in standbys._waiting.values()] == [waiting.pid], "one for all slots, none for a TPU"


def test_one_that_does_not_come_to_read_is_told_no_more_than_a_pipe_takes(standbys: Standbys) -> None:
    standbys.keep(["cpu:0"])
    standby = standbys._waiting["cpu"]
    wait_until(lambda: standby.is_ready, what="the standby is ready", deadline_seconds=60.0)
    os.kill(standby.fork.pid, signal.SIGSTOP)
    for name, claimed in (("heard", False), ("heard too", False), ("claimed", True)):
        standbys.foretell(["cpu:0"], json.dumps({name: "x" * (COMING_BYTES_MAX - 100)}), claimed=claimed)
        assert list(json.loads(standby.foretold)) == ["heard"]
    os.kill(standby.fork.pid, signal.SIGCONT)
    wait_until(lambda: standby.is_ready and standby.reads_since is None, what="it has read it")
    standbys.foretell(["cpu:0"], json.dumps({"heard": "x" * COMING_BYTES_MAX}), claimed=True)
    assert len(standby.foretold) < COMING_BYTES_MAX, "what is longer than that is not told"
    standbys.foretell(["cpu:0"], json.dumps({"heard": 1}), claimed=False)
    assert json.loads(standby.foretold) == {"heard": 1}


def test_a_run_does_not_wait_until_another_runs_config_is_read(standbys: Standbys) -> None:
    standbys.keep(["cpu:0"])
    standby = standbys._waiting["cpu"]
    wait_until(lambda: standby.is_ready, what="the standby is ready", deadline_seconds=60.0)
    os.kill(standby.fork.pid, signal.SIGSTOP)
    standbys.foretell(["cpu:0"], json.dumps({"another's": 1}), claimed=False)
    standbys.foretell(["cpu:0"], json.dumps({"its own": 1}), claimed=True)
    assert standbys.take(["cpu:0"], "path") is None
    assert standby.fork.wait(10.0), "it is not kept for the next run either"
    standbys.keep(["cpu:0"])
    assert standbys._waiting["cpu"] is not standby


def test_one_that_does_not_come_back_from_what_it_reads_is_replaced(
    standbys: Standbys, monkeypatch: pytest.MonkeyPatch
) -> None:
    standbys.keep(["cpu:0"])
    standby = standbys._waiting["cpu"]
    wait_until(lambda: standby.is_ready, what="the standby is ready", deadline_seconds=60.0)
    os.kill(standby.fork.pid, signal.SIGSTOP)
    standbys.foretell(["cpu:0"], json.dumps({"heard": 1}), claimed=False)
    standbys.keep(["cpu:0"])
    assert standbys._waiting["cpu"] is standby, "it has time"
    monkeypatch.setattr(workers.standbys, "STUCK_SECONDS", 0.0)
    standbys.keep(["cpu:0"])
    assert standbys._waiting["cpu"] is not standby
    assert standby.fork.wait(10.0)


def test_reading_a_config_that_grows_without_end_is_given_up(
    standbys: Standbys, undisturbed: Any, tmp_path: Path
) -> None:
    aliases = ",".join(f"&a{level} [*a{level - 1},*a{level - 1}]" for level in range(1, 40))
    config = DROPPING.config()
    bomb = {**config, "data": {"class_path": "models.data.Digits", "init_args": {"data_dir": f"[&a0 [1,1],{aliases}]"}}}
    bomb["model"] = {"class_path": "models.vision.ImageClassifier", "dict_kwargs": {"odd": f"[&a0 [1,1],{aliases}]"}}
    run = prepared(tmp_path, DROPPING)
    standbys.keep(["cpu:0"])
    standby = standbys._waiting["cpu"]
    wait_until(lambda: standby.is_ready, what="the standby is ready", deadline_seconds=60.0)
    standbys.foretell(["cpu:0"], json.dumps(bomb), claimed=False)
    wait_until(lambda: standby.is_ready and standby.reads_since is None, what="it has given up")
    standbys.foretell(["cpu:0"], json.dumps(config), claimed=True)
    fork = standbys.take(["cpu:0"], str(run.path))
    assert fork is not None
    ended((run, [fork]))
    assert_same_end(undisturbed(DROPPING), run)


def test_one_that_was_killed_is_not_taken_and_another_takes_its_place(standbys: Standbys) -> None:
    standbys.keep(["cpu:0"])
    first = standbys._waiting["cpu"].fork
    wait_until(lambda: standbys._waiting["cpu"].is_ready, what="the standby is ready", deadline_seconds=60.0)
    os.kill(first.pid, signal.SIGKILL)
    assert first.wait(10.0)
    assert standbys.take(["cpu:0"], "path") is None
    standbys.keep(["cpu:0"])
    assert standbys._waiting["cpu"].fork.pid != first.pid


def test_one_that_nobody_will_ever_tell_its_run_ends(standbys: Standbys) -> None:
    standbys.keep(["cpu:0"])
    standby = standbys._waiting.pop("cpu")
    standby.connection.close()
    fork = standby.fork
    assert fork.wait(60.0)
    assert not psutil.pid_exists(fork.pid)


IDLE = """
from workers.standbys import Standbys
standbys = Standbys([], 1)
standbys.keep(["cpu:0"])
"""


def test_a_process_that_keeps_one_ends_all_the_same() -> None:
    done = subprocess.run([sys.executable, "-c", IDLE], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def state() -> dict[str, Any]:
    """What of a process a run changes, and a run without a seed, or the next warning, depends on."""
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": [str(part) for part in np.random.get_state()],
        "python": list(random.getstate()[1]),
        "environment": dict(os.environ),
        "folder": str(Path.cwd()),
        "signals": [str(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)],
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cuda": [len(torch.cuda._queued_calls), torch.cuda.is_initialized()],
        "threads": torch.get_num_threads(),
        "grad": torch.is_grad_enabled(),
        "given_once": sorted(warning_cache),
    }


def look(path: str) -> None:
    """Leave what is not as before after a rehearsal."""
    os.environ["KEPT"] = "as it is"
    torch.randn(1), np.random.rand(1)  # generators that are in the middle of something
    before = state()
    rehearse(MODULES)
    after = state()
    Path(path).write_text(json.dumps([name for name in before if before[name] != after[name]]))


def test_a_rehearsal_leaves_nothing_behind(warm_fork_server: None, tmp_path: Path) -> None:
    fork = Fork(__name__, "look", str(tmp_path / "told"))
    assert fork.wait(120.0)
    assert fork.exit_code == 0
    assert json.loads((tmp_path / "told").read_text()) == []
