import os
from pathlib import Path

from workers.rundir import Order, Outcome, RunDir, write_whole
from workers.trainer.spool import ProgressFile


def test_an_order_and_an_outcome_pass_through_the_directory(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    order = Order("job_1", 2, {"model": {"class_path": "m.Net"}}, ["gpu:1", "gpu:3"], ["models"], 29500, 4)
    run.create(order)
    assert run.order() == order
    assert run.read_outcome() is None
    write_whole(run.outcome, {"status": "failed", "code": "oom", "message": "m", "traceback": None})
    assert run.read_outcome() == Outcome("failed", "oom", "m", None)
    run.outcome.write_text("{half")
    assert run.read_outcome() is None
    assert (tmp_path / "run").stat().st_mode & 0o077 == 0, "for its owner alone"


def test_progress_is_none_until_there_is_some(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert run.read_progress() is None
    run.create(Order("job_1", 1, {}, ["cpu:0"], []))
    assert run.read_progress() is None
    file = ProgressFile(run.progress)
    file.write(epoch=2, global_step=7, batches=14, max_steps=-1)
    seen = run.read_progress()
    assert seen is not None
    assert (seen.epoch, seen.global_step, seen.batches, seen.max_steps) == (2, 7, 14, None)


def test_the_end_of_a_log_is_read_without_the_whole(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert run.log_tail(10) == ""
    run.log.write_bytes(b"a" * 100 + "…end".encode())
    assert run.log_tail(6) == "…end"


def test_a_directory_is_held_by_one_at_a_time_and_emptied_but_for_its_lock(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    lock = run.hold()
    assert lock is not None
    assert RunDir(tmp_path / "run").hold() is None
    run.create(Order("job_1", 1, {}, ["cpu:0"], []))
    write_whole(run.outcome, {"status": "succeeded"})
    run.empty()
    assert [path.name for path in run.path.iterdir()] == ["lock"]
    assert RunDir(tmp_path / "run").hold() is None
    os.close(lock)
    again = run.hold()
    assert again is not None
    os.close(again)
