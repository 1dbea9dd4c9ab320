"""Which release of the client this is."""

from functools import cache
from importlib.metadata import PackageNotFoundError, version


@cache
def client_version() -> str:
    """The installed version of the client; "source" where it runs from a source tree that is not installed."""
    try:
        return version("lightyard")
    except PackageNotFoundError:
        return "source"
