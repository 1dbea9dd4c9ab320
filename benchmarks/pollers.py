"""Clients that poll as fast as they are answered, at a tenth of what the fastest server here spends on the answer.

A process of its own (`python -m benchmarks.pollers`) with raw sockets under one epoll: each connection sends the same
request again as soon as it has its answer whole. No pipelining; a connection that the server closes is made anew.
"""

import json
import select
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from benchmarks.figure import percentile

PIECE_BYTES = 256 * 1024
ANSWER_SECONDS = 120.0
"""A server that says nothing for so long breaks the benchmark."""


@dataclass(frozen=True, slots=True)
class Polled:
    """What the connections saw together."""

    rate: float
    """Answers a second."""
    p50_milliseconds: float
    p99_milliseconds: float
    statuses: dict[str, int]
    reconnects: int
    busy: float
    """The share of a core that the clients took themselves."""


def poll(address: str, requests: Sequence[bytes], seconds: float, warm_seconds: float = 0.5) -> Polled:
    """Have one connection for each of the requests poll for so long, after some time that does not count."""
    host, _, port = address.removeprefix("http://").partition(":")
    asked = {
        "host": host,
        "port": int(port),
        "requests": [request.decode("latin-1") for request in requests],
        "seconds": seconds,
        "warm_seconds": warm_seconds,
    }
    command = [sys.executable, "-m", "benchmarks.pollers"]
    limit = seconds + warm_seconds + ANSWER_SECONDS
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, timeout=limit)
    assert done.returncode == 0, done.stderr[-2000:]
    return Polled(**json.loads(done.stdout))


def get(address: str, path: str, headers: Mapping[str, str]) -> bytes:
    """A GET as browsers and clients send it."""
    given = {"Host": address.removeprefix("http://"), "Accept": "*/*", "User-Agent": "poller", **headers}
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items()), "", ""]
    return "\r\n".join(lines).encode()


def whole(answer: bytes) -> int:
    """How many bytes an answer has in all; 0: its head is not there yet. -1: it ends with a last chunk."""
    end = answer.find(b"\r\n\r\n")
    if end < 0:
        return 0
    if answer.startswith((b"HTTP/1.1 304", b"HTTP/1.1 204")):
        return end + 4
    head = answer[:end].lower()
    at = head.find(b"\r\ncontent-length:")
    if at >= 0:
        return end + 4 + int(head[at + 17 :].partition(b"\r\n")[0])
    assert b"transfer-encoding: chunked" in head, head
    return -1


class _Line:
    """One connection and its request."""

    def __init__(self, peer: tuple[str, int], request: bytes) -> None:
        self._peer = peer
        self._request = request
        self._got = b""
        self._sent_at = 0.0
        self.connect()

    def connect(self) -> None:
        self.socket = socket.create_connection(self._peer, timeout=ANSWER_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self) -> None:
        self._got = b""
        self._sent_at = time.perf_counter()
        self.socket.sendall(self._request)

    def receive(self) -> tuple[bytes, float] | None:
        """The status of an answer that is whole now, and how long it took. Raises `ConnectionError`."""
        piece = self.socket.recv(PIECE_BYTES)
        if not piece:
            raise ConnectionResetError
        self._got += piece
        size = whole(self._got)
        if size == 0 or len(self._got) < size or (size < 0 and not self._got.endswith(b"\r\n0\r\n\r\n")):
            return None
        return self._got[9:12], time.perf_counter() - self._sent_at


def _run(peer: tuple[str, int], requests: Sequence[bytes], seconds: float, warm_seconds: float) -> Polled:
    waiting = select.epoll()
    lines = {}
    for request in requests:
        line = _Line(peer, request)
        lines[line.socket.fileno()] = line
        waiting.register(line.socket, select.EPOLLIN)
    statuses: Counter[str] = Counter()
    took: list[float] = []
    reconnects = 0
    for line in lines.values():
        line.send()
    began = time.perf_counter() + warm_seconds
    warm, until = True, began + seconds
    cpu_at = time.process_time()
    while (now := time.perf_counter()) < until:
        if warm and now >= began:
            warm, cpu_at, reconnects = False, time.process_time(), 0
            statuses.clear()
            took.clear()
        ready = waiting.poll(ANSWER_SECONDS)
        assert ready, f"no answer for {ANSWER_SECONDS:g} s"
        for number, _ in ready:
            line = lines[number]
            try:
                answered = line.receive()
            except ConnectionError:
                waiting.unregister(line.socket)
                line.socket.close()
                del lines[number]
                line.connect()
                lines[line.socket.fileno()] = line
                waiting.register(line.socket, select.EPOLLIN)
                reconnects += 1
                line.send()
                continue
            if answered is not None:
                status, delay = answered
                statuses[status.decode()] += 1
                took.append(delay)
                line.send()
    spent = time.perf_counter() - began
    busy = (time.process_time() - cpu_at) / spent
    for line in lines.values():
        line.socket.close()
    p50, p99 = (percentile(took, share) * 1000 for share in (0.5, 0.99))
    return Polled(len(took) / spent, p50, p99, dict(statuses), reconnects, busy)


def main() -> None:
    """Read what to do from stdin, do it, and write what was seen."""
    asked = json.load(sys.stdin)
    requests = [request.encode("latin-1") for request in asked["requests"]]
    found = _run((asked["host"], asked["port"]), requests, asked["seconds"], asked["warm_seconds"])
    sys.stdout.write(json.dumps(asdict(found)))


if __name__ == "__main__":
    main()
