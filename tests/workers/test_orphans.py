"""Run directories whose worker was killed: another worker on the machine brings home what is in them."""

import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from dataclasses import asdict

import psutil
import pytest

from core.attempts import Attempts, Retry
from core.checkpoints import Checkpoints
from core.claims import Claim
from core.database import Database
from core.jobs import Jobs
from core.metrics import Metrics
from core.security import Caller
from core.states import ReasonCode, Status
from tests.workers.shipping import Ship
from workers.orphans import Orphans, remove_torn
from workers.rundir import Outcome, write_whole


@pytest.fixture
def orphan(start: Callable[..., Ship]) -> Ship:
    """A run directory with one step shipped, and a step and a recovery checkpoint not shipped when its worker died."""
    ship = start()
    ship.shipper.abandon()
    for step in (0, 1):
        ship.spool.metrics({"loss": 9.0 - step}, step, 0)
    ship.save("recovery-step=2.ckpt", b"recovery", 2, kind="recovery")
    ship.spool.flush()
    return ship


def settle(database: Database, ship: Ship) -> None:
    Orphans(database, ship.store, ship.config, threading.Event()).settle()


def steps(database: Database, job_id: str) -> list[int]:
    series = Metrics(database).series(job_id, "loss")
    return [point.step for point in series.points] if series else []


def test_what_a_dead_worker_had_not_shipped_arrives_and_its_job_is_requeued_without_waiting_for_the_lease(
    database: Database, caller: Caller, held: Claim, orphan: Ship
) -> None:
    settle(database, orphan)
    job = Jobs(database).get(caller.project_id, held.job.id)
    assert job.status is Status.QUEUED
    assert [(one.outcome, one.number) for one in job.attempts_list] == [("worker_lost", 1)]
    assert steps(database, job.id) == [0, 1]
    assert [one.step for one in Checkpoints(database).of_kind(job.id, "recovery")] == [2]
    assert orphan.run.ended.exists()
    settle(database, orphan)
    assert Jobs(database).get(caller.project_id, held.job.id) == job, "it is settled once"


def test_a_run_that_had_ended_when_its_worker_died_has_ended(
    database: Database, caller: Caller, held: Claim, orphan: Ship
) -> None:
    write_whole(orphan.run.outcome, asdict(Outcome("succeeded")))
    settle(database, orphan)
    job = Jobs(database).get(caller.project_id, held.job.id)
    assert (job.status, job.attempt) == (Status.SUCCEEDED, 1)
    assert Checkpoints(database).of_kind(job.id, "recovery") == []


def test_a_directory_whose_supervisor_lives_is_let_be(
    database: Database, caller: Caller, held: Claim, orphan: Ship
) -> None:
    lock = orphan.run.hold()
    assert lock is not None
    settle(database, orphan)
    assert Jobs(database).get(caller.project_id, held.job.id).status is Status.RUNNING
    os.close(lock)
    settle(database, orphan)
    assert Jobs(database).get(caller.project_id, held.job.id).status is Status.QUEUED


def test_an_attempt_that_was_given_up_is_still_heard_but_publishes_no_checkpoint(
    database: Database, caller: Caller, held: Claim, orphan: Ship
) -> None:
    Attempts(database).lose(held.job.id, held.token, ReasonCode.WORKER_LOST, "silent", Retry(1, 1))
    settle(database, orphan)
    assert steps(database, held.job.id) == [0, 1]
    assert Checkpoints(database).of_kind(held.job.id, "recovery") == []
    assert len(Jobs(database).get(caller.project_id, held.job.id).attempts_list) == 1


def test_the_directory_of_a_deleted_job_is_left_to_be_swept(
    database: Database, caller: Caller, held: Claim, orphan: Ship
) -> None:
    Attempts(database).finish(held.job.id, held.token, Status.FAILED)
    Jobs(database).delete(caller.project_id, held.job.id, lambda _: None)
    settle(database, orphan)
    assert orphan.run.ended.exists()


def test_what_still_runs_in_the_directory_is_killed_first(database: Database, held: Claim, orphan: Ship) -> None:
    code = (
        "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]); print(flush=True); signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=orphan.run.work, stdout=subprocess.PIPE) as left:
        assert left.stdout is not None
        left.stdout.readline()
        settle(database, orphan)
        assert not psutil.pid_exists(left.pid)


def test_a_checkpoint_that_a_power_cut_tore_is_not_published(orphan: Ship) -> None:
    whole, torn, removal = orphan.run.outbox / "000002", orphan.run.outbox / "000003", orphan.run.path / "uploads" / "7"
    for path in (whole, torn):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("data.pkl", bytes(range(256)) * 40)
    torn.write_bytes(torn.read_bytes()[:5000] + bytes(3000) + torn.read_bytes()[8000:])
    removal.parent.mkdir(exist_ok=True)
    removal.touch()
    remove_torn(orphan.run)
    assert (whole.exists(), torn.exists(), removal.exists()) == (True, False, True)
