"""The object store: where checkpoints and artifacts lie. A local folder behind a `file://` address."""

import contextlib
import os
import shutil
from pathlib import Path
from urllib.parse import unquote, urlsplit

from core.database import private_folder
from core.ids import new_id


class Store:
    """Files by key. A file appears whole or not at all, and is not changed afterwards."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
            raise ValueError(f"LIGHTYARD_STORAGE_URL is {url!r}: only file:///absolute/path is supported")
        self.root = Path(unquote(parts.path))

    def put(self, source: Path, key: str) -> None:
        """Store a file under a key: linked where source and store share a file system, else copied, then made durable.

        The source must not be written any more. Raises `OSError`, for instance when the disk is full; nothing is
        left behind then.
        """
        target = self.path(key)
        private_folder(target.parent)
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

    def delete(self, key: str) -> None:
        """Remove a file; one that is gone already is no error."""
        with contextlib.suppress(FileNotFoundError):
            self.path(key).unlink()

    def delete_all(self, prefix: str) -> None:
        """Remove every file under a folder of keys; what is gone already is no error. Raises `OSError` otherwise."""
        folder = self.path(prefix)
        while folder.exists():
            with contextlib.suppress(FileNotFoundError):  # someone else removes them too: look at what is left
                shutil.rmtree(folder)


def job_prefix(job_id: str) -> str:
    """The folder of a job's files."""
    return f"jobs/{job_id}"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
