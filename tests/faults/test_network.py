import socket
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.faults.network import HOST, Line, Network, State

SECONDS = 5.0
SOON_SECONDS = 0.2


@pytest.fixture
def line() -> Iterator[Line]:
    """A line to a server that sends back what it gets."""
    with socket.create_server((HOST, 0)) as listener, Network() as network:
        threading.Thread(target=_echo, args=(listener,), daemon=True).start()
        yield network.line(listener.getsockname()[1])


def _echo(listener: socket.socket) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_echo_one, args=(connection,), daemon=True).start()


def _echo_one(connection: socket.socket) -> None:
    with connection:
        try:
            while data := connection.recv(1024):
                connection.sendall(data)
        except OSError:
            return


def _call(line: Line) -> socket.socket:
    return socket.create_connection((HOST, line.port), timeout=SECONDS)


def test_an_open_line_carries_both_ways(line: Line) -> None:
    with closing(_call(line)) as call:
        call.sendall(b"hello")
        assert call.recv(10) == b"hello"


def test_a_cut_line_resets_its_connections_and_new_ones_until_it_is_open_again(line: Line) -> None:
    with closing(_call(line)) as call:
        call.sendall(b"hello")
        assert call.recv(10) == b"hello"
        line.set(State.CUT)
        with pytest.raises(ConnectionResetError):
            call.recv(10)
    with pytest.raises(ConnectionResetError), closing(_call(line)) as call:
        call.recv(10)
    line.set(State.OPEN)
    with closing(_call(line)) as call:
        call.sendall(b"again")
        assert call.recv(10) == b"again"


def test_a_stalled_line_delivers_nothing_and_then_everything(line: Line) -> None:
    with closing(_call(line)) as call:
        call.sendall(b"one ")
        assert call.recv(10) == b"one "
        line.set(State.STALLED)
        call.sendall(b"two")
        call.settimeout(SOON_SECONDS)
        with pytest.raises(TimeoutError):
            call.recv(10)
        call.settimeout(SECONDS)
        line.set(State.OPEN)
        assert call.recv(10) == b"two"
