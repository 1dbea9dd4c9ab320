"""How much memory trainers take, and whether the kernel has killed one for it."""

from collections.abc import Sequence
from pathlib import Path

import psutil


def machine_bytes() -> int:
    """Memory of the machine."""
    return int(psutil.virtual_memory().total)


def memory_bytes(pids: Sequence[int], enough_bytes: int) -> int:
    """Memory of processes and all their children, what they share counted once; exact only above `enough_bytes`.

    Trainers share the fork server's pages and DataLoader workers their trainer's, so resident sizes count them many
    times over; the exact, proportional size is slow to read and read only where it matters.
    """
    resident = proportional = 0
    processes = [process for pid in pids for process in _family(pid)]
    for process in processes:
        try:
            resident += process.memory_info().rss
        except psutil.Error:
            continue
    if resident <= enough_bytes:
        return resident
    for process in processes:
        try:
            proportional += process.memory_full_info().pss
        except (psutil.Error, AttributeError):
            continue
    return proportional


def oom_kills() -> int:
    """How many processes the kernel has killed for want of memory, in this control group where it tells."""
    for path in ("/sys/fs/cgroup/memory.events", "/proc/vmstat"):
        try:
            for line in Path(path).read_text().splitlines():
                name, _, count = line.partition(" ")
                if name == "oom_kill":
                    return int(count)
        except (OSError, ValueError):
            continue
    return 0


def _family(pid: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.Error:
        return []
