"""Why an attempt ended, from the strongest witness to the weakest: the supervisor, the trainer's words, its exit."""

import signal
from collections.abc import Sequence
from enum import Enum, auto

from core.states import ReasonCode
from workers.forkserver import Fork
from workers.memory import oom_kills
from workers.rundir import Outcome, RunDir

LOG_TAIL_BYTES = 8 * 1024
CRASHES = {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGSYS}


class Ended(Enum):
    """Why the supervisor stopped watching."""

    EXITED = auto()
    LOST = auto()
    KILLED_BY_REQUEST = auto()
    TIMEOUT = auto()
    OUT_OF_MEMORY = auto()
    OUT_OF_DISK = auto()
    NEVER_STARTED = auto()
    MEMBER_GONE = auto()
    DISMISSED = auto()


class Witness:
    """What can be known of a run from outside, from before its start on."""

    def __init__(self, run: RunDir, forks: Sequence[Fork], memory_max_bytes: int) -> None:
        self._run = run
        self._forks = forks
        self._memory_max_bytes = memory_max_bytes
        self._oom_kills = oom_kills()

    def out_of_memory(self) -> Outcome:
        """A run that took more memory than it may have."""
        message = f"the trainer and its children took more memory than they may have: {self._memory_max_bytes} bytes"
        return Outcome("failed", ReasonCode.OOM, message)

    def outcome(self, first_codes: Sequence[int | None]) -> Outcome | None:
        """How a run ended that nobody ended; None: by no fault of its own.

        `first_codes` are the ranks' exit codes when the first of them had ended.
        """
        said = self._run.read_outcome()
        kernel_killed = oom_kills() > self._oom_kills
        if said is not None:
            # A DataLoader's worker that the kernel killed for memory is told by Lightning as an error of the run.
            if (
                kernel_killed
                and said.status in ("failed", "lost")
                and "killed by signal: Killed" in (said.message or "")
            ):
                return self.out_of_memory()
            # A rank that loses another says that a connection broke: it was killed, and that is no fault of the run.
            of_rank = len(first_codes) > 1 and -signal.SIGKILL in first_codes and said.status == "failed"
            lost = said.status == "lost" and said.code != ReasonCode.DATA_ERROR
            return None if lost or of_rank else said
        codes = [fork.exit_code for fork in self._forks]
        if kernel_killed and -signal.SIGKILL in codes:
            return self.out_of_memory()
        if not codes or any(fork.lost_its_server for fork in self._forks):
            return None
        telling = [code for code in codes if code not in (None, 0, -signal.SIGKILL, -signal.SIGTERM)]
        if telling:
            return self._exit(telling[0] or 0)
        return self._exit(0) if all(code == 0 for code in codes) else None

    def _exit(self, code: int) -> Outcome:
        tail = self._run.log_tail(LOG_TAIL_BYTES)
        if code >= 0:
            message = f"the trainer process exited with code {code} before the run had ended (os._exit in the code?)"
            return Outcome("failed", ReasonCode.USER_ERROR, message, tail)
        name = signal.Signals(-code).name
        if -code not in CRASHES:
            return Outcome("failed", ReasonCode.USER_ERROR, f"the trainer was ended by {name}", tail)
        trace = tail[max(0, tail.rfind("Fatal Python error")) :]  # what faulthandler wrote
        return Outcome("failed", ReasonCode.USER_ERROR, f"the trainer crashed with {name}", trace)
