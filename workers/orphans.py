"""Run directories whose supervisor died: what is in them is brought home, and what still runs there is killed.

A supervisor locks its run directory for as long as it lives, so a directory that can be locked has none. Its worker was
killed, or the machine went down: the next worker on this machine looks when it starts, and now and then.
"""

import contextlib
import os
import struct
import threading
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import structlog
from sqlalchemy.exc import SQLAlchemyError

from core.attempts import Attempts
from core.claims import Claims
from core.database import Database, is_outage
from core.gangs import Gangs
from core.settings import Settings
from core.storage import Store
from workers.member import Member
from workers.postmortem import PostMortem
from workers.rundir import RunDir
from workers.supervisor import Supervisor

KILL_SECONDS = 5.0

log = structlog.get_logger()


class Orphans:
    """Finds and settles the run directories that nobody looks after."""

    def __init__(self, database: Database, store: Store, config: Settings, shutting_down: threading.Event) -> None:
        self._database = database
        self._store = store
        self._config = config
        self._shutting_down = shutting_down
        self._attempts = Attempts(database)
        self._claims = Claims(database)
        self._gangs = Gangs(database)

    def settle(self) -> None:
        """Settle all there are; what an outage of the database prevents is left for the next time."""
        for path in sorted(self._config.runs_path.glob("job_*/attempt-*/job.json")):
            if self._shutting_down.is_set():
                return
            run = RunDir(path.parent)
            of = run.of_what()
            if run.ended.exists() or of is None:
                continue
            try:
                with _locked(run) as held:
                    if held is not None:
                        self._settle(run, *of, held)
            except (SQLAlchemyError, OSError) as error:
                log.warning("orphan_not_settled", run=str(run.path), error=str(error).splitlines()[0])
                if isinstance(error, SQLAlchemyError) and is_outage(error):
                    return

    def _settle(self, run: RunDir, job_id: str, attempt: int, node_rank: int, held: int) -> None:
        kill_all_in(run.path)
        if psutil.boot_time() > run.job.stat().st_mtime:
            remove_torn(run)
        parts = (self._database, self._store, self._config)
        if node_rank and (seat := self._gangs.held(job_id, attempt, node_rank)) is not None:
            log.warning("orphan_found", job_id=job_id, attempt=attempt, node=node_rank, live=True)
            Member(*parts, *seat, 0, self._shutting_down, "").adopt(os.dup(held))
            return
        claim = None if node_rank else self._claims.held(job_id, attempt)
        log.warning("orphan_found", job_id=job_id, attempt=attempt, node=node_rank, live=claim is not None)
        if claim is not None:
            Supervisor(*parts, claim, 0, self._shutting_down).adopt(os.dup(held))
        else:
            PostMortem(self._database, self._config, job_id, attempt, run).ship()
            run.ended.touch()


def kill_all_in(folder: Path) -> None:
    """Kill every process that works in a folder: a trainer never leaves its own, nor do its DataLoader workers."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if Path(process.cwd()).is_relative_to(folder):
                process.kill()
                found.append(process)
    _, alive = psutil.wait_procs(found, KILL_SECONDS)
    if alive:
        raise OSError(f"processes in {folder} do not die: {[process.pid for process in alive]}")


def remove_torn(run: RunDir) -> None:
    """Remove checkpoints that wait to be stored and are not whole, for the machine went down before they were."""
    waiting = [path for path in (run.path / "uploads").glob("*") if path.stat().st_size]  # empty: it is to be removed
    for path in (*run.outbox.glob("*"), *waiting):
        if not _is_whole(path):
            log.warning("torn_checkpoint_removed", path=str(path))
            path.unlink()


def _is_whole(path: Path) -> bool:
    """Whether a checkpoint, which is a zip archive as torch writes it, agrees with its check sums."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, RuntimeError, ValueError):
        return False


@contextmanager
def _locked(run: RunDir) -> Iterator[int | None]:
    descriptor = run.hold()
    try:
        yield descriptor
    finally:
        if descriptor is not None:
            os.close(descriptor)
