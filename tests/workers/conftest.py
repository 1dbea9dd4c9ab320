"""The same database and ways to fill it as the core's tests have."""

from tests.core.conftest import _postgresql, _sqlite, caller, claim, database, submit, worker

__all__ = ["_postgresql", "_sqlite", "caller", "claim", "database", "submit", "worker"]
