"""The trainers of an attempt on one machine: started, held to what they may use, and gone at the end."""

import os
import time
from collections.abc import Callable, Sequence

import structlog

from core.settings import Settings
from core.states import ReasonCode
from workers.disk import used_bytes
from workers.forkserver import Fork, wait_any
from workers.lease import Lease
from workers.memory import machine_bytes, memory_bytes
from workers.rundir import Order, Outcome, RunDir
from workers.standbys import Standbys
from workers.verdict import Ended, Witness

TICK_SECONDS = 0.2
MEMORY_SECONDS, DISK_SECONDS = 1.0, 5.0
"""How often each is looked at: to find a trainer's children every process of the machine is."""

log = structlog.get_logger()


class CannotStart(Exception):
    """The worker cannot start a trainer just now, through no fault of the job's."""


class Trainers:
    """The processes, one for each rank here, and the run directory that they share, locked as long as they may run."""

    def __init__(self, run: RunDir, config: Settings, lease: Lease, standbys: Standbys | None = None) -> None:
        """`standbys`, where there are any, are asked first for the processes."""
        self._run = run
        self._standbys = standbys
        self._config = config
        self._lease = lease
        self._forks: list[Fork] = []
        self._held: int | None = None
        self._started = self._weighed = self._measured = 0.0
        self.codes: list[int | None] = []
        """The exit codes of the ranks when the first had ended, before the others were killed."""
        self._witness = Witness(run, self._forks, self._memory_max())

    @property
    def were_started(self) -> bool:
        """Whether there are any: a run directory that was adopted has none."""
        return bool(self._forks)

    def adopt(self, held: int) -> None:
        """Take over a run directory by the lock that is held on it; what ran there has ended."""
        self._held = held

    def prepare(self, make_order: Callable[[], Order]) -> None:
        """Lock the run directory, and fill it anew with what is to be run. Raises `CannotStart`."""
        try:
            self._held = self._run.hold()
            if self._held is None:
                raise CannotStart("its run directory is held by another supervisor")
            self._run.empty()
            self._run.create(make_order())
        except OSError as error:
            raise CannotStart(f"its run directory cannot be made: {error}") from error

    def start(self, devices: Sequence[str]) -> int:
        """Start one on each device; returns the first one's process id. Raises `CannotStart`."""
        path = str(self._run.path)
        try:
            waiting = self._standbys.take(devices, path) if self._standbys is not None else None
            if waiting is not None:
                self._forks.append(waiting)
            else:
                for rank in range(len(devices)):
                    self._forks.append(Fork("workers.trainer.main", "train", path, rank))
        except (OSError, EOFError) as error:
            raise CannotStart(f"the fork server gave no process: {error!r}") from error
        self._started = self._measured = time.monotonic()
        return self._forks[0].pid

    @property
    def seconds(self) -> float:
        """Since their start."""
        return time.monotonic() - self._started

    def have_ended(self) -> bool:
        """Wait for a moment; whether all have ended, or one has ended badly, which the others do not outlive."""
        wait_any(self._forks, TICK_SECONDS)
        codes = [fork.exit_code for fork in self._forks]
        if None in codes and all(code in (None, 0) for code in codes):
            return False
        self.codes = codes
        return True

    def exceed(self) -> Ended | None:
        """Which limit they exceed: the time to a first sign of life, memory, or disk; None: none."""
        config = self._config
        if self.seconds > config.start_timeout_seconds and not self._run.has_spoken():
            return Ended.NEVER_STARTED
        now = time.monotonic()
        if now - self._weighed > MEMORY_SECONDS:
            self._weighed, memory_max = now, self._memory_max()
            if memory_bytes([fork.pid for fork in self._forks], memory_max) > memory_max:
                return Ended.OUT_OF_MEMORY
        if config.run_max_bytes and now - self._measured > DISK_SECONDS:
            self._measured = now
            if used_bytes(self._run.path, config.run_max_bytes) > config.run_max_bytes:
                return Ended.OUT_OF_DISK
        return None

    def outcome(self, ended: Ended) -> Outcome | None:
        """How they ended, by their own words and by what the supervisor did; None: by no fault of the run."""
        if ended is Ended.OUT_OF_DISK:
            message = f"its run directory took more than LIGHTYARD_RUN_MAX_BYTES ({self._config.run_max_bytes} bytes)"
            return Outcome("failed", ReasonCode.OUT_OF_DISK, message)
        if ended is Ended.OUT_OF_MEMORY:
            return self._witness.out_of_memory()
        return self._witness.outcome(self.codes)

    def kill(self) -> None:
        """End them all, with their children."""
        for fork in self._forks:
            fork.kill()
        for fork in self._forks:
            fork.wait(5.0)

    def leave(self, *, settled: bool) -> None:
        """Let go of the run directory; `settled`: all that is in it has been handed over, and it says so."""
        try:
            if settled:
                self._run.ended.touch()
        except OSError as error:
            log.warning("run_directory_not_marked", path=str(self._run.path), error=str(error))
        if self._held is not None:
            os.close(self._held)

    def _memory_max(self) -> int:
        return self._lease.orders.max_memory_bytes or self._config.job_max_memory_bytes or int(machine_bytes() * 0.9)
