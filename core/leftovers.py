"""Leftovers: files of the object store that no row speaks of, left where a process ended between the two."""

from collections.abc import Iterable, Sequence
from itertools import islice

import structlog
from sqlalchemy import select

from core.database import Database
from core.storage import Store, StoredFile, job_prefix
from core.tables import artifacts, checkpoints, jobs

JOBS = "jobs"
FOLDERS_PER_PASS = 100
FILES_PER_FOLDER = 10_000
IDS_PER_QUESTION = 500

log = structlog.get_logger()


class Leftovers:
    """Removes what is stored and in no row, some folders of jobs at a time.

    A file is published right after it was stored, so one that has lain there for `older_than_seconds` without a row
    never will be. A draft may be the copy of a large file under way: it is given `drafts_older_than_seconds`.
    """

    def __init__(
        self,
        database: Database,
        store: Store,
        *,
        older_than_seconds: float = 3600.0,
        drafts_older_than_seconds: float = 86400.0,
    ) -> None:
        self._database = database
        self._store = store
        self._older_than_seconds = older_than_seconds
        self._drafts_older_than_seconds = drafts_older_than_seconds
        self._after = ""

    def sweep(self) -> int:
        """Look at the next `FOLDERS_PER_PASS` folders, round and round; returns how many files or folders went.

        Safe beside uploads and other sweeps. Raises `SQLAlchemyError` or `OSError` when the database or the store is
        away; nothing is lost by that.
        """
        names = self._store.folders(JOBS)
        if not self._ours(names):
            return 0
        page = list(islice((name for name in names if name > self._after), FOLDERS_PER_PASS))
        self._after = page[-1] if len(page) == FOLDERS_PER_PASS else ""
        # The files first and the rows after them: a row that was made in between counts.
        files = {name: self._old(self._store.files(job_prefix(name))) for name in page}
        known, keys = self._rows(page)
        removed = 0
        for name, old in files.items():
            if name not in known:
                removed += self._remove_folder(name)
                continue
            for file in old:
                removed += file.key not in keys and self._remove(file)
        return removed

    def _ours(self, names: Sequence[str]) -> bool:
        """Whether the database knows one of the jobs. If not, it is another service's, or new by mistake."""
        with self._database.read() as connection:
            for start in range(0, len(names), IDS_PER_QUESTION):
                some = select(jobs.c.id).where(jobs.c.id.in_(names[start : start + IDS_PER_QUESTION])).limit(1)
                if connection.execute(some).first() is not None:
                    return True
        if names:
            log.info(
                "store_not_swept", detail="the database knows none of the jobs that have files", folders=len(names)
            )
        return False

    def _rows(self, names: Sequence[str]) -> tuple[set[str], set[str]]:
        """Those of the jobs that exist, and the keys of all that their rows speak of."""
        keys: set[str] = set()
        with self._database.read() as connection:
            known = set(connection.execute(select(jobs.c.id).where(jobs.c.id.in_(names))).scalars())
            for table in (checkpoints, artifacts):
                keys.update(connection.execute(select(table.c.storage_key).where(table.c.job_id.in_(names))).scalars())
        return known, keys

    def _old(self, files: Iterable[StoredFile]) -> Sequence[StoredFile]:
        return [file for file in islice(files, FILES_PER_FOLDER) if file.age_seconds > self._patience(file)]

    def _patience(self, file: StoredFile) -> float:
        return self._drafts_older_than_seconds if file.is_draft else self._older_than_seconds

    def _remove(self, file: StoredFile) -> bool:
        # Looked at again: an upload that had to wait for the database renews its file before it makes the row.
        if self._store.age_seconds(file.key) <= self._patience(file):
            return False
        self._store.delete(file.key)
        log.info("leftover_removed", key=file.key)
        return True

    def _remove_folder(self, name: str) -> bool:
        """Remove all of a job that is gone, once nothing has been written there for long enough."""
        prefix = job_prefix(name)
        files = list(islice(self._store.files(prefix), FILES_PER_FOLDER))
        ages = [self._store.age_seconds(prefix), *(file.age_seconds for file in files)]
        if min(ages) <= self._older_than_seconds:
            return False
        self._store.delete_all(prefix)
        log.info("leftovers_removed", job_id=name, files=len(files))
        return True
