"""The same database and ways to fill it as the core's tests have, and shippers on it."""

from tests.core.conftest import _postgresql, _sqlite, caller, claim, database, submit, worker
from tests.workers.shipping import held, start

__all__ = ["_postgresql", "_sqlite", "caller", "claim", "database", "held", "start", "submit", "worker"]
