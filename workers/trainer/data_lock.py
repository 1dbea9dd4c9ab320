"""Who prepares some data on a machine: one process at a time, whichever worker or job it is of."""

import fcntl
import hashlib
import os
from pathlib import Path


class DataLock:
    """The machine's lock on some data: an flock, which ends with the process that has it, however that ends.

    Its file goes when it is given back, so that none pile up. The folder must be this user's own: in one that is
    everybody's, somebody else could hold what is ours.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self._folder = folder
        self._path = folder / f"{hashlib.sha256(key.encode('utf-8', 'replace')).hexdigest()[:32]}.lock"
        self._descriptor: int | None = None

    def take(self) -> bool:
        """Take it, unless another process has it. Raises `OSError` where nothing can be locked there."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._folder.stat().st_uid != os.geteuid():
            raise PermissionError(
                f"{self._folder} belongs to another user: set LIGHTYARD_DATA_LOCKS to a folder of ours"
            )
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            taken = self._is_still(descriptor)  # whoever had it may have removed the file meanwhile
        except BlockingIOError:
            taken = False
        except BaseException:
            os.close(descriptor)
            raise
        if taken:
            self._descriptor = descriptor
        else:
            os.close(descriptor)
        return taken

    def give_back(self) -> None:
        """Let others have it."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        self._path.unlink(missing_ok=True)
        # Said, not left to closing: a process that preparing has forked would hold the lock on.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)

    def _is_still(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), self._path.stat())
        except FileNotFoundError:
            return False
