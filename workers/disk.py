"""How much of the disk a run takes."""

import contextlib
import os
from pathlib import Path

BLOCK_BYTES = 512  # the unit of `st_blocks`, whatever the file system's own (stat(2))


def used_bytes(folder: Path, enough_bytes: int | None = None) -> int:
    """What a folder and all in it take of the disk, sparse files by what is written; a file with several names once.

    Links are not followed. Counting stops once it has come past `enough_bytes`. What goes meanwhile, or cannot be
    read, counts nothing.
    """
    used = 0
    seen: set[tuple[int, int]] = set()
    folders = [os.fspath(folder)]
    while folders:
        with contextlib.suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    found = entry.stat(follow_symlinks=False)
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif found.st_nlink > 1:
                        if (found.st_dev, found.st_ino) in seen:
                            continue
                        seen.add((found.st_dev, found.st_ino))
                    used += found.st_blocks * BLOCK_BYTES
                if enough_bytes is not None and used > enough_bytes:
                    return used
    return used
