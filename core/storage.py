"""The object store: where checkpoints and artifacts lie. A local folder behind a `file://` address."""

import contextlib
import errno
import os
import shutil
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from core.database import private_folder
from core.ids import new_id

MARK = ".lightyard"
DRAFT = ".put_"
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Of an `OSError`: there is no room, as against a store that cannot be reached."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of the store, and for how long (in seconds) it has lain there as it is."""

    key: str
    age_seconds: float
    is_draft: bool


class Store:
    """Files by key. A file appears whole or not at all, and is not changed afterwards.

    The store's folder bears a mark. Where a process has seen it and it is gone, the store is away (unmounted, moved):
    every verb that changes something then raises `OSError`, so that nothing is put in the place where it should be.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
            raise ValueError(f"LIGHTYARD_STORAGE_URL is {url!r}: only file:///absolute/path is supported")
        self.root = Path(unquote(parts.path))
        self._mark = self.root / MARK
        self._seen = False

    def check(self) -> bool:
        """Whether the store has been made. Raises `OSError` when it has been, and cannot be reached."""
        if self._mark.exists():
            self._seen = True
        elif self._seen:
            raise FileNotFoundError(errno.ENOENT, "the store is away: its folder is not there", str(self.root))
        return self._seen

    @property
    def is_there(self) -> bool:
        """Whether a store that has been made can be reached now."""
        try:
            return self.check()
        except OSError:
            return False

    def expect(self) -> None:
        """Know that the store has been made: where it is not there, it is away, and no other is made in its place."""
        self._seen = True

    def attach(self) -> None:
        """Make the store if there is none yet, and know it from now on. Raises `OSError` when it cannot be reached."""
        if not self.check():
            private_folder(self.root)
            self._mark.touch()
            self._seen = True

    def put(self, source: Path, key: str) -> None:
        """Store a file under a key: linked where source and store share a file system, else copied, then made durable.

        The source must not be written any more. Raises `OSError`, for instance when the disk is full; nothing is
        left behind then.
        """
        self.attach()
        target = self.path(key)
        _make_durably(target.parent)
        draft = target.with_name(f".{new_id('put')}")
        try:
            try:
                os.link(source, draft)
            except OSError:
                shutil.copyfile(source, draft)
            _sync(draft)
            draft.replace(target)
            _sync(target.parent)
        finally:
            with contextlib.suppress(FileNotFoundError):
                draft.unlink()

    def path(self, key: str) -> Path:
        """Where the file of a key lies. Raises `ValueError` for a key that leads outside the store."""
        path = (self.root / key).resolve()
        if not path.is_relative_to(self.root.resolve()):
            raise ValueError(f"storage key {key!r} leads outside the store")
        return path

    def renew(self, key: str) -> bool:
        """Make a file young again, so that it is not taken for a leftover; whether it is there. Raises `OSError`."""
        self.check()
        try:
            os.utime(self.path(key))
        except FileNotFoundError:
            return False
        return True

    def delete(self, key: str) -> None:
        """Remove a file; one that is gone already is no error. Raises `OSError` when the store is away."""
        self.check()
        with contextlib.suppress(FileNotFoundError):
            self.path(key).unlink()

    def folders(self, prefix: str) -> Sequence[str]:
        """The names of the folders directly under a prefix, sorted. Raises `OSError` when the store is away."""
        self.check()
        try:
            with os.scandir(self.path(prefix)) as entries:
                return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
        except FileNotFoundError:
            return []

    def files(self, prefix: str) -> Iterator[StoredFile]:
        """The files under a prefix, drafts too, in no order; what goes meanwhile is left out."""
        folders = [self.path(prefix)]
        while folders:
            folder = folders.pop()
            with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(folder / entry.name)
                        continue
                    key = (folder / entry.name).relative_to(self.root.resolve()).as_posix()
                    yield StoredFile(key, self.age_seconds(key), is_draft=entry.name.startswith(DRAFT))

    def age_seconds(self, key: str) -> float:
        """For how long a file or folder has been as it is; 0 for one that is gone.

        By the time of its inode's last change, for a linked file keeps the time at which it was written.
        """
        try:
            return max(0.0, time.time() - self.path(key).lstat().st_ctime)
        except FileNotFoundError:
            return 0.0

    def delete_all(self, prefix: str) -> None:
        """Remove every file under a folder of keys; what is gone already is no error. Raises `OSError` otherwise."""
        self.check()
        folder = self.path(prefix)
        while folder.exists():
            with contextlib.suppress(FileNotFoundError):  # someone else removes them too: look at what is left
                shutil.rmtree(folder)


def job_prefix(job_id: str) -> str:
    """The folder of a job's files."""
    return f"jobs/{job_id}"


def _make_durably(folder: Path) -> None:
    """Make a folder and those above it that are missing, so that their names outlive a loss of power too."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    for one in reversed(missing):
        one.mkdir(mode=stat.S_IRWXU, exist_ok=True)
        _sync(one.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
