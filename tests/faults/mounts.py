"""A small disk that can be filled, mounted where only this process and its children see it."""

import ctypes
import os
import subprocess
from pathlib import Path

SMALL_DISK_BYTES = 96 * 2**20
CLONE_NEWNS = 0x00020000
MS_REC_PRIVATE = 0x4000 | 0x40000


def mount_small(folder: Path) -> str | None:
    """Put a small disk at a folder, seen by this process and its children alone; None, or why that cannot be done."""
    libc = ctypes.CDLL(None, use_errno=True)
    # A mount namespace of this process's own: the mount ends with it, however that ends.
    if libc.unshare(CLONE_NEWNS) != 0 or libc.mount(b"none", b"/", None, MS_REC_PRIVATE, None) != 0:
        return f"no disk can be mounted here: {os.strerror(ctypes.get_errno())}"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK_BYTES},mode=0700", "lightyard-faults", folder],
        capture_output=True,
        text=True,
    )
    return None if done.returncode == 0 else f"no disk can be mounted here: {done.stderr.strip()}"


def unmount(folder: Path) -> None:
    """Take the small disk away, even while something still uses it."""
    subprocess.run(["umount", "-l", folder], capture_output=True, check=False)
