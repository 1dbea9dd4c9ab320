"""Standby trainers: while a device is free, a process waits for its next run with all done that needs no config."""

import atexit
import contextlib
import threading
from collections.abc import Iterable, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection

import structlog

from workers.forkserver import Fork

log = structlog.get_logger()


class Standbys:
    """At most one standby for each GPU, and one for all CPU slots, which are alike.

    None is ever needed: where there is none, or it is not ready yet, a trainer is forked when its run is there.
    """

    def __init__(self, modules: Sequence[str], threads: int) -> None:
        """`modules` are the catalogue's; `threads` as in an `Order`."""
        self._modules = list(modules)
        self._threads = threads
        self._lock = threading.Lock()
        self._waiting: dict[str, tuple[Fork, Connection]] = {}
        self._closed = False
        atexit.register(self.close)  # before multiprocessing joins its children, which these would wait for

    def keep(self, devices: Iterable[str]) -> None:
        """Have one wait for the next run on each of these devices. Raises `OSError` or `EOFError` as a `Fork` does."""
        kinds = {_kind(device): device for device in devices if not device.startswith("tpu:")}
        with self._lock:
            if self._closed:
                return
            for kind, device in kinds.items():
                there = self._waiting.get(kind)
                if there is None or there[0].exit_code is not None:
                    self._waiting[kind] = self._new(device)

    def take(self, devices: Sequence[str], path: str) -> Fork | None:
        """Give the run directory at `path` to a standby; None: none is ready for a run on these devices."""
        if len(devices) != 1:
            return None
        with self._lock:
            fork, connection = self._waiting.get(_kind(devices[0]), (None, None))
            if fork is None or connection is None:
                return None
            try:
                if fork.exit_code is None and not connection.poll():
                    return None  # it still rehearses
                del self._waiting[_kind(devices[0])]
                with connection:
                    connection.recv_bytes()
                    connection.send(path)
            except (EOFError, OSError):
                log.warning("standby_lost", exit_code=fork.exit_code)
                fork.kill()
                return None
            return fork

    def close(self) -> None:
        """End those that wait, for good."""
        with self._lock:
            self._closed = True
            while self._waiting:
                _, (fork, connection) = self._waiting.popitem()
                connection.close()
                fork.kill()

    def _new(self, device: str) -> tuple[Fork, Connection]:
        ours, theirs = Pipe()
        with theirs, contextlib.ExitStack() as undone:
            undone.enter_context(ours)
            fork = Fork("workers.trainer.standby", "stand_by", theirs, device, self._modules, self._threads)
            undone.pop_all()
        return fork, ours


def _kind(device: str) -> str:
    return "cpu" if device.startswith("cpu:") else device
