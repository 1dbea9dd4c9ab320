"""The catalogue that submissions are validated against: what all workers that are up announce, together."""

import threading
import time

from core.catalog import Catalog
from core.errors import Unavailable
from core.fleet import Fleet

CHECK_SECONDS = 1.0
"""How old the knowledge of who is up may be."""


class LiveCatalog:
    """The union of the announced catalogues, read again when their digests change."""

    def __init__(self, fleet: Fleet, silence_seconds: float) -> None:
        self._fleet = fleet
        self._silence_seconds = silence_seconds
        self._lock = threading.Lock()
        self._digests: tuple[str, ...] = ()
        self._catalog: Catalog | None = None
        self._checked_at = float("-inf")

    def current(self) -> Catalog:
        """The catalogue as it is now. Raises `Unavailable` as long as no worker has ever announced one."""
        with self._lock:
            if time.monotonic() - self._checked_at >= CHECK_SECONDS:
                self._look()
            if self._catalog is None:
                raise Unavailable(
                    "No worker has announced yet what it can run, so nothing can be validated. Start a worker "
                    "(`python -m workers`), or wait until the one that starts has looked at its modules.",
                    code="no_catalog",
                    retry_after_seconds=2,
                )
            return self._catalog

    def _look(self) -> None:
        digests = tuple(self._fleet.catalog_digests(self._silence_seconds))
        if digests != self._digests:
            bodies = self._fleet.catalog_bodies(digests)
            self._catalog = Catalog.union(Catalog.from_json(body) for body in bodies) if bodies else None
            self._digests = digests
        # An empty look is repeated at once by the next request: who waits for the first worker should not wait longer.
        if self._catalog is not None:
            self._checked_at = time.monotonic()
