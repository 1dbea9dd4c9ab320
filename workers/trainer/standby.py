"""A standby trainer: forked before there is a run for it, it rehearses, and waits to be told which one is its own."""

import contextlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NoReturn

import torch
from setproctitle import setproctitle

from workers.rundir import CONFIG, RunDir
from workers.trainer.build import foresee
from workers.trainer.main import perform, set_environment, stand_alone
from workers.trainer.parsers import forget
from workers.trainer.rehearsal import rehearse

READY = b"ready"
READ_SECONDS = 0.5
"""Most configs take 0.02 to 0.05."""


def stand_by(connection: Connection, device: str, modules: Sequence[str], threads: int) -> NoReturn:
    """Rehearse, say `READY`, then run what is in the run directory that is sent; end where none ever will be.

    A config that is sent before is read at once, for the run will probably have it, then `READY` is said again.

    `device` is the one that the run will have: whoever looks for devices sees it from the beginning. `threads` as in
    an `Order`. Called in a fresh fork.
    """
    stand_alone()
    setproctitle("lightyard-standby")
    set_environment([device])
    if 0 < threads < torch.get_num_threads():
        torch.set_num_threads(threads)
    try:
        with _silence():
            rehearse(modules)
    except Exception:  # the run itself will tell what is wrong, if it concerns it at all
        sys.stderr.write(f"a standby trainer could not rehearse:\n{traceback.format_exc()}")
        sys.stderr.flush()
    try:
        while True:
            with contextlib.suppress(OSError):  # whoever has told the run hears no more
                connection.send_bytes(READY)
            what, told = json.loads(connection.recv_bytes())
            if what != CONFIG:
                break
            _read(told, modules)
        run = RunDir(Path(told))
    except (EOFError, OSError):  # the worker is gone
        os._exit(0)
    connection.close()
    perform(run, run.order(), 0)


def _read(config: str, modules: Sequence[str]) -> None:
    """Read a config, JSON text, for half a second at most: it may be anybody's, and take as long as it likes."""
    signal.signal(signal.SIGALRM, _give_up)
    signal.setitimer(signal.ITIMER_REAL, READ_SECONDS, READ_SECONDS)  # again, should a parser catch it
    try:
        with _silence():
            foresee(json.loads(config), modules)
    except (_Late, Exception):  # the run itself will tell, without a limit
        forget()
    finally:
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


class _Late(BaseException):
    """What is read takes too long. No `Exception`: jsonargparse takes those for values of another type."""


def _give_up(_signal: int, _frame: object) -> NoReturn:
    raise _Late


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Nobody is to read in a worker's log what Lightning prints of a rehearsal."""
    kept = [os.dup(descriptor) for descriptor in (1, 2)]
    nothing = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(nothing, descriptor)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for descriptor, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, descriptor)
            os.close(copy)
        os.close(nothing)
