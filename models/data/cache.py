"""Files that are prepared once per machine, however many processes ask for them."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

PREPARE_TIMEOUT_SECONDS = 600.0
"""Longest wait for another process that prepares the same file."""


def cache_dir(data_dir: str | None) -> Path:
    """The folder for prepared data: `data_dir`, or `lightyard-models` in the user's cache (XDG base directories)."""
    if data_dir is not None:
        return Path(data_dir).expanduser().absolute()
    caches = os.environ.get("XDG_CACHE_HOME", "")
    # The specification has a relative path ignored.
    return (Path(caches) if Path(caches).is_absolute() else Path.home() / ".cache") / "lightyard-models"


def prepare_once(path: Path, write: Callable[[Path], None]) -> None:
    """Have `write` make the file at `path`, unless it is there.

    `write` gets a temporary name in the same folder. The file is renamed once it is whole and on the disk, so a reader
    sees all of it or none. Of several processes one writes; the others wait and find the file.

    Raises:
        TimeoutError: another process has held the lock for `PREPARE_TIMEOUT_SECONDS`.
    """
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    lock_path = path.with_name(path.name + ".lock")
    try:
        with FileLock(lock_path, timeout=PREPARE_TIMEOUT_SECONDS):
            if not path.exists():
                _write_whole(path, write)
    except Timeout as error:
        raise TimeoutError(
            f"Another process has been preparing {path} for {PREPARE_TIMEOUT_SECONDS:.0f} s. "
            f"Stop it if it hangs; its lock on {lock_path} ends with it."
        ) from error


def _write_whole(path: Path, write: Callable[[Path], None]) -> None:
    # A folder of our own holds whatever `write` leaves behind when it fails, or when the process is killed.
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        part = Path(folder) / path.name
        write(part)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
