"""On a full disk a run goes on without recovery checkpoints; what it must report it keeps until there is room."""

import errno
import json
import os
from pathlib import Path

import pytest

from tests.workers.trainer.runs import Case, events, recoveries, train
from workers.rundir import Outcome
from workers.trainer.spool import Spool

FULL = Path("/dev/full")
CASE = Case("Dropping", {}, {"max_epochs": 1})

pytestmark = pytest.mark.skipif(not FULL.exists(), reason="a disk that is full is to be had on Linux only")


@pytest.mark.usefixtures("warm_fork_server")
def test_a_recovery_checkpoint_that_does_not_fit_is_told_once_and_tried_again(tmp_path: Path) -> None:
    run_path = tmp_path / "attempt-1"
    run_path.mkdir()
    for step in (2, 3):
        (run_path / f".recovery-step={step}.ckpt.draft").symlink_to(FULL)
    run = train(tmp_path, CASE)
    assert run.read_outcome() == Outcome("succeeded"), run.log_tail(3000)
    (told,) = events(run, "recovery_failed")
    assert "No space left" in told["reason"]
    steps = [place["step"] for place in recoveries(run)]
    assert 1 in steps
    assert not {2, 3} & set(steps)
    assert 4 in steps
    assert not list(run_path.glob(".*.draft"))


@pytest.mark.usefixtures("warm_fork_server")
def test_a_checkpoint_of_the_users_that_does_not_fit_fails_the_run(tmp_path: Path) -> None:
    folder = tmp_path / "attempt-1" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / ".epoch=0-step=10.ckpt.draft").symlink_to(FULL)
    outcome = train(tmp_path, CASE).read_outcome()
    assert outcome is not None
    assert (outcome.status, outcome.code) == ("failed", "out_of_disk")


def test_what_a_full_disk_did_not_take_is_written_once_there_is_room(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    path.symlink_to(FULL)
    spool = Spool(path)
    with pytest.raises(OSError, match="No space left") as raised:
        spool.event("one")
    assert raised.value.errno == errno.ENOSPC
    room = os.open(tmp_path / "room", os.O_WRONLY | os.O_CREAT)
    os.dup2(room, spool._descriptor)
    os.close(room)
    spool.event("two")
    lines = (tmp_path / "room").read_text().splitlines()
    assert [json.loads(line)["type"] for line in lines] == ["one", "two"]
