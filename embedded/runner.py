"""honcho's process runner, which here stops in order and leaves nobody behind."""

import os
import signal
import sys
import threading
from collections import defaultdict, deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import psutil
from honcho.manager import SYSTEM_PRINTER_NAME, Manager
from honcho.printer import Message, Printer
from honcho.process import Popen, Process

from embedded.lineage import bound_to_parent

LAST_LINES = 20
POLL_SECONDS = 0.05
KILL_SECONDS = 5.0
"""How long a killed process may take to be gone."""


class LastLines(Printer):  # type: ignore[misc]  # honcho ships no types
    """Prints what the processes write, and remembers the end of it."""

    def __init__(self) -> None:
        super().__init__(sys.stdout)
        self._last: dict[str, deque[str]] = defaultdict(lambda: deque(maxlen=LAST_LINES))

    def write(self, message: Message) -> None:
        """Print the lines of one message.

        honcho's own are left out: it writes some in its signal handler, where a print can meet another print of the
        same thread and raise.
        """
        if message.name == SYSTEM_PRINTER_NAME:
            return
        data = message.data
        self._last[message.name].extend(
            (data.decode(errors="replace") if isinstance(data, bytes) else data).splitlines()
        )
        super().write(message)

    def last_of(self, name: str) -> str:
        """The last lines that a process wrote."""
        return "\n".join(self._last[name])


class Runner(Manager):  # type: ignore[misc]  # honcho ships no types
    """Runs processes in the foreground until one of them ends or a signal comes; then stops them all.

    They stop last added first, each with SIGTERM and its own time, then SIGKILL. If the runner itself is killed, the
    kernel kills them (`bound_to_parent`). Only the process itself gets SIGTERM, not its group: a worker decides itself
    how its trainers end.
    """

    _terminating: bool

    def __init__(self, when_started: Callable[[], None]) -> None:
        self.output = LastLines()
        super().__init__(self.output)
        self._process_ctor = _BoundProcess
        self._when_started = when_started
        self._grace_seconds: dict[str, float] = {}
        self.ended: str | None = None
        """Name of the process that ended by itself, if one did."""

    def add(self, name: str, command: str, env: dict[str, str], grace_seconds: float) -> None:
        """Add a process; `grace_seconds` is its time between SIGTERM and SIGKILL."""
        # Without `exec` there would be a shell between us and the process, and the shell would get the signals.
        self.add_process(name, f"exec {command}", env=env)
        self._grace_seconds[name] = grace_seconds

    @property
    def is_stopping(self) -> bool:
        """Whether a signal came or a process ended."""
        return bool(self._terminating)

    @property
    def ended_how(self) -> str:
        """How the process ended that ended by itself, in words."""
        code = self._processes[self.ended]["returncode"]
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"

    def terminate(self) -> None:
        """Begin to stop. honcho calls this from its signal handler, and when it sees that a process has ended."""
        if not self._terminating:
            if self.returncode not in (130, 143):  # honcho's marks of SIGINT and SIGTERM
                self.ended = next((name for name, state in self._processes.items() if "returncode" in state), None)
            self._terminating = True

    def kill(self) -> None:
        """Do nothing: honcho would kill all five seconds after the first end, and `_stop_in_order` does it in time."""

    def loop(self) -> None:
        """Run until all have stopped."""
        super().loop()
        self._stopping.join()

    def _start(self) -> None:
        super()._start()
        # Threads start after the processes: a process that has threads should not fork.
        self._stopping = threading.Thread(target=self._stop_in_order, daemon=True)
        self._stopping.start()
        threading.Thread(target=self._when_started, daemon=True).start()

    def _stop_in_order(self) -> None:
        _until(lambda: self._terminating, seconds=float("inf"))
        _until(self._all_started, seconds=KILL_SECONDS)
        for name, state in reversed(self._processes.items()):
            if "pid" not in state:
                continue
            if "returncode" not in state:
                with suppress(ProcessLookupError):
                    os.kill(state["pid"], signal.SIGTERM)
            _until(partial(_has_ended, state["pid"]), self._grace_seconds[name])
            with suppress(ProcessLookupError):  # each is the leader of a group: take along what it left there
                os.killpg(state["pid"], signal.SIGKILL)
            _until(partial(state.__contains__, "returncode"), KILL_SECONDS)


class _BoundProcess(Process):  # type: ignore[misc]  # honcho ships no types
    """honcho's keeper of one process, a fork of the runner. It dies with the runner, and its process with it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._bind_to_runner = bound_to_parent()

    def run(self, events: Any = None, ignore_signals: bool = False) -> None:
        """Start the process and pass on what it writes; runs in a process of its own."""
        self._bind_to_runner()
        # Ctrl-C reaches this process too, which has inherited the runner's handlers.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self._child_ctor = partial(Popen, preexec_fn=bound_to_parent())
        super().run(events, ignore_signals)


def _has_ended(pid: int) -> bool:
    """Whether a process is over. honcho says so only when all that it started have closed its output, too."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _until(condition: Callable[[], object], seconds: float) -> None:
    waiting = threading.Event()
    while not condition() and seconds > 0:
        waiting.wait(POLL_SECONDS)
        seconds -= POLL_SECONDS
