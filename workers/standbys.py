"""Standby trainers: while a device is free, a process waits for its next run with all done that needs no config."""

import atexit
import contextlib
import json
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import structlog

from core.bell import COMING_BYTES_MAX
from workers.forkserver import Fork
from workers.rundir import CONFIG, RUN

STUCK_SECONDS = 5.0
"""A standby that reads a config for so long, though it gives up much sooner, is replaced."""

log = structlog.get_logger()


@dataclass(slots=True)
class _Standby:
    fork: Fork
    connection: Connection
    rehearsed: bool = False
    foretold: str = ""
    reads_since: float | None = None
    """Since when it reads what it was foretold; None: it has read it."""
    is_misled: bool = False
    """Whether it read what another run was to have when its own was claimed."""

    @property
    def is_ready(self) -> bool:
        """Whether it waits to be told its run. Raises `EOFError` or `OSError` once it is gone."""
        while self.connection.poll() or (not self.rehearsed and self.fork.exit_code is not None):
            self.connection.recv_bytes()
            self.rehearsed, self.reads_since = True, None
        return self.rehearsed

    @property
    def is_lost(self) -> bool:
        """Whether it has ended, or does not come back from what it reads."""
        if self.reads_since is not None and time.monotonic() - self.reads_since > STUCK_SECONDS:
            with contextlib.suppress(EOFError, OSError):
                return not self.is_ready or self.reads_since is not None
        return self.fork.exit_code is not None

    def tell(self, what: str, value: Any) -> None:
        """Send a message. Raises `OSError` once it is gone."""
        self.connection.send_bytes(json.dumps([what, value]).encode())


class Standbys:
    """At most one standby for each GPU, and one for all CPU slots, which are alike.

    None is ever needed: where there is none, or it is not ready yet, a trainer is forked when its run is there.
    """

    def __init__(self, modules: Sequence[str], threads: int) -> None:
        """`modules` are the catalogue's; `threads` as in an `Order`."""
        self._modules = list(modules)
        self._threads = threads
        self._lock = threading.Lock()
        self._waiting: dict[str, _Standby] = {}
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
                if there is not None and there.is_lost:
                    there.connection.close()
                    there.fork.kill()
                    there = None
                if there is None:
                    self._waiting[kind] = self._new(device)

    def foretell(self, devices: Sequence[str], config: str, *, claimed: bool) -> None:
        """Have the one that would be taken for these devices read a config, JSON text, that its run will probably have.

        One that is only heard of it is not given while anything else is done here: that is heard by a thread which is
        not to wait. Nor is it given one before it has read the one before.
        """
        if not self._lock.acquire(blocking=claimed):
            return
        try:
            standby = self._waiting.get(_kind(devices[0])) if len(devices) == 1 else None
            if standby is None or not (standby.rehearsed or standby.connection.poll()) or not standby.is_ready:
                return
            standby.is_misled = claimed and standby.reads_since is not None and config != standby.foretold
            if standby.reads_since is None and config != standby.foretold and len(config) <= COMING_BYTES_MAX:
                standby.tell(CONFIG, config)
                standby.foretold, standby.reads_since = config, time.monotonic()
        except (EOFError, OSError):  # it is gone, as `take` will find
            pass
        finally:
            self._lock.release()

    def take(self, devices: Sequence[str], path: str) -> Fork | None:
        """Give the run directory at `path` to a standby; None: none is ready for a run on these devices."""
        with self._lock:
            standby = self._waiting.get(_kind(devices[0])) if len(devices) == 1 else None
            if standby is None:
                return None
            try:
                if not standby.is_ready:
                    return None
                if standby.is_misled and standby.reads_since is not None:
                    # However long that takes, and whatever it needs, is not this run's to bear.
                    standby.connection.close()
                    standby.fork.kill()
                    return None
                with standby.connection:
                    standby.tell(RUN, path)
            except (EOFError, OSError):
                log.warning("standby_lost", exit_code=standby.fork.exit_code)
                standby.fork.kill()
                return None
            finally:
                if standby.rehearsed or standby.fork.exit_code is not None:
                    del self._waiting[_kind(devices[0])]
            return standby.fork

    def close(self) -> None:
        """End those that wait, for good."""
        with self._lock:
            self._closed = True
            while self._waiting:
                _, standby = self._waiting.popitem()
                standby.connection.close()
                standby.fork.kill()

    def _new(self, device: str) -> _Standby:
        ours, theirs = Pipe()
        with theirs, contextlib.ExitStack() as undone:
            undone.enter_context(ours)
            fork = Fork("workers.trainer.standby", "stand_by", theirs, device, self._modules, self._threads)
            undone.pop_all()
        return _Standby(fork, ours)


def _kind(device: str) -> str:
    return "cpu" if device.startswith("cpu:") else device
