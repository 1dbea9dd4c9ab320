"""A trainer: one process that runs one rank of one attempt, forked warm or started by hand on a run directory."""

import contextlib
import ctypes
import faulthandler
import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from setproctitle import setproctitle

from workers.rundir import Order, Outcome, RunDir, write_whole
from workers.trainer.spool import Spool

if TYPE_CHECKING:
    from workers.trainer.build import Run

PR_SET_PDEATHSIG = 1
MEETING = ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_")
CLUSTER_VARIABLES = ("SLURM_", "PL_", "OMPI_", "PMI_", "LSB_", "GROUP_RANK", "LOCAL_RANK", "NODE_RANK", *MEETING)
"""A worker may run inside a cluster's own job: what that says about ranks is not about this one."""


def train(path: str, rank: int) -> NoReturn:
    """Run one of this machine's ranks of the attempt, then end this process. Called in a fresh fork."""
    stand_alone()
    run = RunDir(Path(path))
    order = run.order()
    set_environment(order.devices)
    perform(run, order, rank)


def perform(run: RunDir, order: Order, rank: int) -> NoReturn:
    """The same, in a process that stands alone and has the environment of the order's devices."""
    setproctitle(f"lightyard-trainer {order.job_id} rank {order.node_rank * len(order.devices) + rank}")
    _redirect(run.log_of(rank))
    os.chdir(run.work)
    spool = Spool(run.spool)
    outcome = _told(spool, _run(run, order, rank, spool))
    if _is_to_be_left(outcome, run.read_outcome(), rank):
        run.reserve.unlink(missing_ok=True)  # room for the last words, should the disk be full
        write_whole(run.outcome, asdict(outcome))
        with contextlib.suppress(OSError):
            spool.flush()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # a full disk, which the outcome tells
            stream.flush()
    # Past this point there is nothing to keep: Python's own teardown with torch loaded takes longer than a short job.
    os._exit(0 if outcome.status in ("succeeded", "stopped") else 1)


def _is_to_be_left(outcome: Outcome, there: Outcome | None, rank: int) -> bool:
    """Whether a rank's word is the run's: the first that failed says why, and those that lose it thereby do not."""
    if there is None:
        return rank == 0 or outcome.status in ("failed", "lost")
    return there.status != "failed" and (outcome.status == "failed" or (rank == 0 and there.status != "lost"))


def _run(run: RunDir, order: Order, rank: int, spool: Spool) -> Outcome:
    # Imported here, not above: already warm in a fork, and a trainer that fails to import them can still say so.
    try:
        import torch

        from workers.trainer import accelerators, profiles, subcommands, trials
        from workers.trainer import outcome as outcomes
        from workers.trainer.allow import allow_only
        from workers.trainer.build import build
        from workers.trainer.control import ControlFile, Stopped
        from workers.trainer.fabric.loop import loop_class, run_loop
        from workers.trainer.rendezvous import meet
    except BaseException as error:
        return Outcome("failed", "user_error", f"the trainer cannot start: {error!r}")
    made: Run | None = None
    try:
        if 0 < order.threads < torch.get_num_threads():
            torch.set_num_threads(order.threads)
        allow_only(order.catalog_modules)
        if (lacking := accelerators.missing(order.devices)) is not None:
            return lacking
        if rank == 0:
            spool.phase("preparing")
        store = meet(run, order, rank) if order.world_size > 1 else None  # the first rank serves it as long as it runs
        loop = loop_class(order)
        if loop is not None:
            return run_loop(loop, order, run, spool)
        made = build(order, run, spool)
        try:
            with profiles.kept(made.trainer), trials.told(made.trainer):
                subcommands.run(made, order)
                if order.dry_run and order.subcommand == "fit":
                    trials.go_on(made.trainer, made.module, made.data)
        finally:  # of a run that failed one wants it most
            if rank == 0:
                _leave_config(run, made)
        del store
        return outcomes.of_success(made.trainer)
    except Stopped:
        return Outcome("stopped")
    except BaseException as error:  # the user's code may raise anything, SystemExit and KeyboardInterrupt too
        if order.subcommand != "fit" and ControlFile(run.control).read().stop:
            return Outcome("stopped")  # each rank stops by itself, and others miss it
        told = outcomes.of_error(error, None if made is None else made.trainer)
        _print(told.traceback or told.message or "")
        return told


def _told(spool: Spool, outcome: Outcome) -> Outcome:
    """The outcome, once all that the run reported is written: it is none without that."""
    try:
        spool.flush()
    except OSError as error:
        from workers.trainer import outcome as outcomes

        return outcome if outcome.status == "failed" else outcomes.of_error(error)
    return outcome


def _leave_config(run: RunDir, made: "Run") -> None:
    try:
        (run.artifacts / "config.yaml").write_text(made.resolved_config())
    except Exception as error:  # a value that cannot be dumped is no reason to fail a run that is done
        _print(f"the resolved config cannot be written: {error!r}\n")


def _print(text: str) -> None:
    with contextlib.suppress(OSError):  # the log may lie on the full disk that it is to tell of
        sys.stderr.write(text)


def stand_alone() -> None:
    """A session of its own, to be killed with its children; it dies with the fork server, so with the worker."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == 1:  # the fork server had died before
            os._exit(1)
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    # DataLoader workers are forks of this process; through the fork server they would pay a cold import each.
    multiprocessing.set_start_method("fork", force=True)
    # A machine that runs out of memory is to kill this process, not the worker.
    if sys.platform == "linux":
        Path("/proc/self/oom_score_adj").write_text("1000")


def _redirect(log: Path) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115  # it stays open as long as the process lives
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    faulthandler.enable(sys.stderr, all_threads=True)


def set_environment(devices: Sequence[str]) -> None:
    """Leave a rank what it is to know of its machine: its devices, and nothing of a cluster. To be called once."""
    sys.argv = ["lightyard-trainer"]
    for name in list(os.environ):
        if name.startswith(CLUSTER_VARIABLES):
            del os.environ[name]
    indices = [device.partition(":")[2] for device in devices]
    on_gpu = devices[0].startswith("gpu:")
    # Before anything touches CUDA: a rank sees the devices of its job and no other.
    # The worker may itself be confined to some: its devices are counted among those.
    mine = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    chosen = [mine[int(index)] if mine else index for index in indices] if on_gpu else []
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(chosen)


if __name__ == "__main__":
    train(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0)
