import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from core.attempts import Attempts
from core.claims import Claim
from core.database import Database
from core.job import Job
from core.states import Status
from workers.reconcile import sweep
from workers.rundir import RunDir


def run_directory(runs: Path, job_id: str, age_seconds: float, names: Sequence[str] = ()) -> Path:
    run = runs / job_id / "attempt-1"
    run.mkdir(parents=True)
    then = time.time() - age_seconds
    for name in ("spool", *names):
        (run / name).touch()
        os.utime(run / name, (then, then))
    os.utime(run, (then, then))
    return run


def test_run_directories_of_ended_attempts_go_after_their_time_and_live_ones_stay(
    database: Database,
    submit: Callable[..., Job],
    worker: Callable[..., str],
    claim: Callable[..., Claim],
    tmp_path: Path,
) -> None:
    box = worker("cpu:0", "cpu:1")
    submit()
    submit()
    live, ended = claim(box), claim(box)
    Attempts(database).finish(ended.job.id, ended.token, Status.SUCCEEDED)
    submit()
    again = claim(box)
    Attempts(database).finish(again.job.id, again.token, Status.SUCCEEDED)
    kept = run_directory(tmp_path, live.job.id, age_seconds=1000)
    gone = run_directory(tmp_path, ended.job.id, age_seconds=1000)
    fresh = run_directory(tmp_path, again.job.id, age_seconds=0)
    submit()
    unsettled_claim = claim(box)
    Attempts(database).finish(unsettled_claim.job.id, unsettled_claim.token, Status.SUCCEEDED)
    unsettled = run_directory(tmp_path, unsettled_claim.job.id, age_seconds=1000, names=("job.json",))
    settled = run_directory(tmp_path, unsettled_claim.job.id + "0", age_seconds=1000, names=("job.json", "ended"))
    deleted = run_directory(tmp_path, "job_that_was_deleted", age_seconds=1000)
    unknown = run_directory(tmp_path, "job_of_another_database", age_seconds=0)
    held = run_directory(tmp_path, "job_that_a_supervisor_holds", age_seconds=1000, names=("lock",))
    lock = RunDir(held).hold()
    assert lock is not None
    (tmp_path / "job_odd").mkdir()
    (tmp_path / "job_odd" / "attempt-x").write_text("no directory of ours")
    sweep(tmp_path, Attempts(database), keep_seconds=100)
    assert kept.exists()
    assert fresh.exists()
    assert not gone.parent.exists()
    assert not deleted.parent.exists()
    assert not settled.parent.exists()
    assert unsettled.exists(), "it may hold what has not been shipped"
    assert unknown.exists()
    assert held.exists()
    os.close(lock)
