"""Processes forked from the warm fork server: torch and Lightning are imported once, a trainer starts in milliseconds.

The worker itself never imports torch, and may have all the threads it likes: what forks is the fork server, which has
one thread (Python's own, `multiprocessing.forkserver`).
"""

import contextlib
import importlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from collections.abc import Sequence
from multiprocessing import forkserver
from typing import Any

import psutil

PRELOAD = "workers.trainer.warm"
RESTART_SECONDS = 120.0
DYING_SECONDS = 1.0
"""A process that is killed lets go of its pipes and sockets before it is gone; this is longer than that takes."""
FORK_SERVER_DIED = 255
"""Exit code that multiprocessing reports for a child whose fork server is gone."""

_context = multiprocessing.get_context("forkserver")
_reviving = threading.Lock()
_lock = threading.Lock()
"""Starting a process polls all others of this process, and a poll reads an exit code once: one thread at a time."""


def warm() -> None:
    """Start the fork server; it imports while the caller goes on."""
    _context.set_forkserver_preload([PRELOAD])
    with _lock:
        forkserver.ensure_running()


def wait_until_warm() -> None:
    """Return once the fork server forks: at once, unless it has died and must import anew.

    Called before a job is claimed, so that no lease runs while nothing can be started.
    """
    with _reviving:
        if not _lives(_server_pid()):
            Fork("builtins", "bool").wait(RESTART_SECONDS)


class Fork:
    """One process forked from the fork server, leader of a process group of its own.

    Raises `OSError` or `EOFError` when the fork server gives none.
    """

    def __init__(self, module: str, function: str, *args: Any) -> None:
        # Named, not imported: what runs there may import torch, which this process must not.
        server = _server_pid()
        try:
            self._start(module, function, args)
        except (OSError, EOFError):  # the fork server dies just now: once it has, starting once more starts another
            _is_gone(server)
            self._start(module, function, args)
        self.pid: int = self._process.pid or 0
        self._killed = False
        self._exit_code: int | None = None

    def _start(self, module: str, function: str, args: Sequence[Any]) -> None:
        self._process = _context.Process(target=_enter, args=(module, function, args))
        with _lock:
            self._process.start()
            self._server = _server_pid()

    @property
    def sentinel(self) -> int:
        """Ready to read once the process has ended."""
        return self._process.sentinel

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        if self._exit_code is None:
            with _lock:
                self._exit_code = self._process.exitcode
        return self._exit_code

    @property
    def lost_its_server(self) -> bool:
        """Whether it ended because the fork server did; a process may also choose the exit code that tells so."""
        return self.exit_code == FORK_SERVER_DIED and _is_gone(self._server)

    def kill(self) -> None:
        """Kill the process and its group, once: afterwards the number may be another's."""
        if self._killed:
            return
        self._killed = True
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        if self.exit_code is None or self.lost_its_server:  # killed before it had a group of its own
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def wait(self, timeout_seconds: float) -> bool:
        """Whether it has ended within the time."""
        deadline = time.monotonic() + timeout_seconds
        while self.exit_code is None:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            multiprocessing.connection.wait([self.sentinel], left)
        return True


def wait_any(forks: Sequence[Fork], timeout_seconds: float) -> None:
    """Return when one of the processes that still run has ended, or after the time."""
    running = [fork.sentinel for fork in forks if fork.exit_code is None]
    if running:
        multiprocessing.connection.wait(running, timeout_seconds)


def _enter(module: str, function: str, args: Sequence[Any]) -> None:
    # The fork server ends when nobody holds the other end of this pipe any more. Every fork is given a copy, so that it
    # could ask for forks itself: kept, a trainer would keep its fork server, and so itself, alive after the worker.
    os.close(forkserver._forkserver._forkserver_alive_fd)  # type: ignore[attr-defined]
    getattr(importlib.import_module(module), function)(*args)


def _server_pid() -> int | None:
    # Private, but there is no other way to know which process forks.
    pid: int | None = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    return pid


def _is_gone(pid: int | None) -> bool:
    """Whether a process has ended, or does so now."""
    deadline = time.monotonic() + DYING_SECONDS
    while _lives(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(DYING_SECONDS / 100)
    return True


def _lives(pid: int | None) -> bool:
    try:
        return pid is not None and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
