"""What goes wrong while a run's data are prepared: a reason of its own, and sometimes one to try again."""

import errno
import http.client
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from workers.rundir import Outcome

_MARK = "__lightyard_preparing__"
_MESSAGE_CHARACTERS = 2000
_AWAY = {errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ETIMEDOUT}
_STATUSES = {429, 500, 502, 503, 504}
"""Of HTTP, by which a server says that the same request may be answered later."""


class PreparingTakesLong(Exception):
    """Another job on the machine has been preparing the same data for longer than anybody waits."""


@contextmanager
def preparing(name: str) -> Iterator[None]:
    """Mark what is raised in here as raised by the `prepare_data` of that class."""
    try:
        yield
    except BaseException as error:
        setattr(error, _MARK, name)
        error.add_note(f"raised while the data were prepared, by prepare_data of {name}")
        raise


def as_data_error(outcome: Outcome, causes: Iterable[BaseException]) -> Outcome:
    """The outcome of a run that raised, where that was an error of its code's: as `data_error`, if raised there.

    Where a connection failed, the attempt is lost and not the job: the next one may find the network back.
    """
    raised = list(causes)
    name = next((str(getattr(cause, _MARK)) for cause in raised if hasattr(cause, _MARK)), None)
    if name is None or outcome.code != "user_error":
        return outcome
    status = "lost" if is_of_the_network(raised) else "failed"
    message = f"prepare_data of {name} failed: {outcome.message}"[:_MESSAGE_CHARACTERS]
    return Outcome(status, "data_error", message, outcome.traceback, outcome.data)


def is_of_the_network(causes: Sequence[BaseException]) -> bool:
    """Whether a connection that failed is among the causes, or a server that could not answer then."""
    return any(map(_is_of_the_network, causes))


def _is_of_the_network(error: BaseException) -> bool:
    if isinstance(error, socket.gaierror):
        return error.errno == socket.EAI_AGAIN  # any other: there is no such host
    if isinstance(error, (ConnectionError, TimeoutError, http.client.IncompleteRead)):
        return True
    if isinstance(error, OSError) and error.errno in _AWAY:
        return True
    # urllib's HTTPError has `code`; that of requests, and httpx's, a `response`.
    answer = getattr(error, "response", None)
    status = getattr(answer, "status_code", None) or getattr(error, "code", None)
    return isinstance(status, int) and status in _STATUSES
