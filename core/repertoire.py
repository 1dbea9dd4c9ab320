"""Which classes the workers that are up can run, as far as a queued job waits for one that has its own."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, select

from core.catalog import Catalog
from core.devices import Announced, free_by_kind, offered
from core.job import Job
from core.tables import catalogs

Live = tuple[Announced, str | None]

CATALOGS_MAX = 32
"""Most catalogues whose class paths are remembered; a fleet has as many as it has kinds of workers."""


class Repertoire:
    """The class paths of announced catalogues, by digest, each read once."""

    def __init__(self) -> None:
        self._known: Mapping[str, frozenset[str]] = {}

    def lacking(self, connection: Connection, queued: Sequence[Job], live: Sequence[Live]) -> dict[str, str]:
        """Of queued jobs that no worker with their devices has the classes of: one of these classes, by job id.

        `live` are the workers that are up, by their devices and the digest of their catalogue.
        """
        self._learn(connection, {digest for _, digest in live if digest is not None})
        found = {job.id: self._lacked(job, live) for job in queued}
        return {job_id: name for job_id, name in found.items() if name is not None}

    def _lacked(self, job: Job, live: Sequence[Live]) -> str | None:
        needed, lacked = set(job.class_paths), None
        for devices, digest in live:
            if len(offered(free_by_kind(devices), job.accelerator)) < job.devices:
                continue
            classes = self._known.get(digest or "")
            if classes is None or needed <= classes:  # one that has not announced its classes yet may have them
                return None
            lacked = min(needed - classes)
        return lacked

    def _learn(self, connection: Connection, digests: Collection[str]) -> None:
        unknown = set(digests) - set(self._known)
        if not unknown:
            return
        rows: Any = connection.execute(select(catalogs).where(catalogs.c.digest.in_(unknown)).limit(CATALOGS_MAX))
        read = {row.digest: _class_paths(row.body) for row in rows}
        kept = {digest: paths for digest, paths in self._known.items() if digest in digests}
        self._known = kept | read  # at once: threads share it


def _class_paths(body: str) -> frozenset[str]:
    return frozenset(entry.class_path for entry in Catalog.from_json(body).entries)
