"""Large files over raw connections: sent by the kernel, to clients of all kinds."""

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from app import connection
from core.checkpoints import Checkpoints
from core.storage import Store
from tests.app.parts import Api, running_api
from tests.waiting import wait_until

CONTENT = os.urandom(2**20) * 36  # more than two turns, and than the kernel keeps for a client that does not read
SIZE = len(CONTENT)


@pytest.fixture
def path(any_api: Api, tmp_path: Path) -> str:
    """Where a large file is downloaded from."""
    return f"/v1/checkpoints/{any_api.checkpoint(any_api.running_job(), CONTENT, tmp_path)}/content"


@contextmanager
def client(api: Api, *paths: str, headers: str = "") -> Iterator[socket.socket]:
    """A connection over which these have been asked for, at once; nothing has been read from it."""
    with socket.socket() as opened:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**18)
        opened.settimeout(30)
        opened.connect(("127.0.0.1", api.config.port))
        for one in paths:
            opened.sendall(request(api, one, headers))
        yield opened


def request(api: Api, path: str, headers: str = "") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.key}\r\n{headers}\r\n".encode()


def answer(opened: socket.socket) -> tuple[int, bytes]:
    """Status and body of the next answer, read no further than to its end."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        piece = opened.recv(1)
        assert piece, f"it ended after {head!r}"
        head += piece
    line, *fields = head.decode().lower().splitlines()
    length = next(int(field.partition(":")[2]) for field in fields if field.startswith("content-length:"))
    return int(line.split()[1]), exactly(opened, length)


def exactly(opened: socket.socket, length: int) -> bytes:
    """So many bytes, or fewer where it ends before."""
    received = bytearray()
    while len(received) < length and (piece := opened.recv(min(2**20, length - len(received)))):
        received += piece
    return bytes(received)


def stored(api: Api) -> Path:
    """The file of the one checkpoint there is."""
    job = api.http.get("/v1/jobs").json()["data"][0]["id"]
    return Store(api.config.storage).path(Checkpoints(api.database).named(job, "last.ckpt")[0].storage_key)


def is_open(file: Path) -> bool:
    """Whether this process, which is the API too, has the file open."""
    found = set()
    for one in Path("/proc/self/fd").iterdir():
        try:
            found.add(str(one.readlink()).removesuffix(" (deleted)"))
        except FileNotFoundError:
            continue
    return str(file) in found


def test_a_large_file_comes_whole_and_its_connection_goes_on(any_api: Api, path: str) -> None:
    with client(any_api) as opened:
        for _ in range(2):
            opened.sendall(request(any_api, path))
            assert answer(opened) == (200, CONTENT)
            opened.sendall(request(any_api, path, f"Range: bytes=1000001-{SIZE - 2}\r\n"))
            assert answer(opened) == (206, CONTENT[1_000_001:-1])
            opened.sendall(request(any_api, "/healthz"))
            assert answer(opened)[0] == 200
    assert not is_open(stored(any_api))


def test_answers_come_in_the_order_of_requests_that_were_sent_at_once(any_api: Api, path: str) -> None:
    with client(any_api, path, "/healthz", path) as opened:
        assert answer(opened) == (200, CONTENT)
        assert answer(opened)[1] != CONTENT
        assert answer(opened) == (200, CONTENT)


def test_a_connection_that_was_to_be_closed_is_closed_behind_the_file(any_api: Api, path: str) -> None:
    with client(any_api, path, headers="Connection: close\r\n") as opened:
        assert answer(opened) == (200, CONTENT)
        assert opened.recv(1) == b""


def test_clients_that_read_nothing_keep_no_other_from_its_file(any_api: Api, path: str) -> None:
    with client(any_api) as last:
        slow = [client(any_api, path) for _ in range(connection.THREADS * 2)]
        opened = [one.__enter__() for one in slow]
        last.sendall(request(any_api, path))
        assert answer(last) == (200, CONTENT)
        assert [answer(one) == (200, CONTENT) for one in opened] == [True] * len(opened)
        for one in slow:
            one.__exit__(None, None, None)


def test_a_client_that_hangs_up_leaves_nothing_behind(any_api: Api, path: str) -> None:
    file = stored(any_api)
    with client(any_api, path) as opened:
        wait_until(lambda: is_open(file), what="the file is being sent")
        exactly(opened, 2**20)
    wait_until(lambda: not is_open(file), what="the file is closed")
    wait_until(lambda: not any_api.running.server_state.tasks, what="the request has ended")


def test_a_client_that_takes_nothing_for_long_is_cut_off(
    any_api: Api, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "STALLED_SECONDS", 0.1)
    file = stored(any_api)
    with client(any_api, path) as opened:
        wait_until(lambda: is_open(file), what="the file is being sent")
        wait_until(lambda: not is_open(file), what="it is given up")
        with pytest.raises(ConnectionResetError):
            exactly(opened, SIZE)


def test_a_client_that_takes_a_little_now_and_then_is_not(
    any_api: Api, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A real one would have to be slower than the deadline; what is looked at is what the kernel still holds.
    looks: list[int] = []
    monkeypatch.setattr(connection, "STALLED_SECONDS", 0.05)
    monkeypatch.setattr(connection, "_left_bytes", lambda _out: looks.append(-len(looks)) or looks[-1])
    with client(any_api, path) as opened:
        wait_until(lambda: len(looks) >= 5, what="it was looked whether anything is taken")
        assert answer(opened) == (200, CONTENT)


def test_a_file_that_is_cut_while_it_is_sent_ends_its_connection(any_api: Api, path: str) -> None:
    file = stored(any_api)
    with client(any_api, path) as opened:
        wait_until(lambda: is_open(file), what="the file is being sent")
        os.truncate(file, SIZE - 1)
        status, body = answer(opened)
        assert status == 200
        assert len(body) < SIZE
        assert CONTENT.startswith(body)


def test_a_download_on_its_way_is_finished_before_the_server_stops(home: Path, tmp_path: Path) -> None:
    with running_api(home, f"sqlite:///{tmp_path / 'lightyard.db'}") as api:
        path = f"/v1/checkpoints/{api.checkpoint(api.running_job(), CONTENT, tmp_path)}/content"
        file = stored(api)
        with client(api, path) as opened:
            wait_until(lambda: is_open(file), what="the file is being sent")
            api.running.should_exit = True
            wait_until(lambda: not api.running.servers[0].is_serving(), what="it takes no more requests")
            assert answer(opened) == (200, CONTENT)
            assert opened.recv(1) == b""


def test_where_the_server_sends_no_files_the_app_reads_and_sends_them(any_api: Api, path: str) -> None:
    async def download() -> bytes:
        transport = httpx.ASGITransport(any_api.running.config.app)
        headers = {"Authorization": f"Bearer {any_api.key}"}
        async with httpx.AsyncClient(transport=transport, base_url="http://x", headers=headers) as http:
            return (await http.get(path)).content

    assert asyncio.run(download()) == CONTENT
