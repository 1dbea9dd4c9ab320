"""The home folder: one running stack at a time, on an address that is free."""

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ANY_ADDRESS = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # read, not bound


class HomeError(Exception):
    """The stack cannot start in this home, or on this address; the message says why and what to do."""


@contextmanager
def only_stack_in(home: Path) -> Iterator[None]:
    """Hold the home folder; whoever else tries meanwhile gets a `HomeError` that names this process.

    The kernel drops the lock with the process, however it ends.
    """
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (home / "serve.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise HomeError(
                f"process {file.read().strip() or 'unknown'} already serves {home}; "
                "stop it, or give this one a home and a port of its own: LIGHTYARD_HOME, LIGHTYARD_PORT"
            ) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def check_port(host: str, port: int) -> None:
    """Raise `HomeError` if nobody could listen there now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise HomeError(f"port {port} of {host} is in use; choose another one in LIGHTYARD_PORT") from error
            raise HomeError(f"cannot listen on {host} port {port} (LIGHTYARD_HOST, LIGHTYARD_PORT): {error}") from error


def free_port(host: str) -> int:
    """A port of `host` that nobody listened on a moment ago."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def address(host: str, port: int) -> str:
    """Where a client on this machine reaches the API that listens on `host` and `port`."""
    reachable = ANY_ADDRESS.get(host, host)
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"
