"""A standby trainer: forked before there is a run for it, it rehearses, and waits to be told which one is its own."""

import contextlib
import json
import os
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
from workers.trainer.rehearsal import rehearse

READY = b"ready"


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
            with _silence():
                foresee(json.loads(told), modules)
        run = RunDir(Path(told))
    except (EOFError, OSError):  # the worker is gone
        os._exit(0)
    connection.close()
    perform(run, run.order(), 0)


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
