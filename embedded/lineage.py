"""A process that must not outlive the one that started it."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable

PR_SET_PDEATHSIG = 1
"""From <linux/prctl.h>; see prctl(2)."""


def bound_to_parent(death_signal: signal.Signals = signal.SIGKILL) -> Callable[[], None]:
    """Make a `preexec_fn` for a child of the calling process: `death_signal` comes to it when the caller dies.

    It holds across `exec`, and the caller must start the child in its main thread, because the kernel watches the
    thread that forked. Signals the caller ignores come to the child with their defaults.
    """
    parent = os.getpid()
    # Looked up here: between fork and exec, a child should do as little as it can.
    prctl = ctypes.CDLL(None, use_errno=True).prctl if sys.platform == "linux" else None

    def bind() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        if prctl is not None and prctl(PR_SET_PDEATHSIG, death_signal) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
        if os.getppid() != parent:  # it died before the kernel was told
            os._exit(1)

    return bind
