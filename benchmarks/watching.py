"""Clients that watch one job, by server-sent events or by long polls, as thousands of tabs and scripts would.

A process of its own (`python -m benchmarks.watching`) with raw sockets under one epoll. It is told what to do by lines
on stdin and answers each by one on stdout: `open` more watchers; `expect` one change; then it answers once all have
heard of it, with when each of them had, by the monotonic clock, which is one for all processes of a machine. A client
that polls asks again at once, with the tag it has got.
"""

import json
import resource
import select
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from benchmarks.pollers import get, whole

PIECE_BYTES = 256 * 1024
OPENING_AT_ONCE = 200
PATIENCE_SECONDS = 60.0


class Watchers:
    """The other end of that process."""

    def __init__(self, address: str, job: str, key: str) -> None:
        command = [sys.executable, "-m", "benchmarks.watching", address, job]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._ask({"key": key})

    def open(self, streams: int = 0, polls: int = 0, tag: str = "") -> None:
        """Connect so many more; returns when all streams have told what there was, and all polls are sent."""
        self._ask({"open": [streams, polls], "tag": tag})

    def expect(self) -> None:
        """Take note, from now on, of when each of them hears of a change."""
        self._ask({"expect": True})

    def heard(self) -> tuple[Sequence[float], Sequence[float]]:
        """When each stream and each poll heard of it, once all have."""
        found = self._ask({"heard": True})
        return found["streams"], found["polls"]

    def close(self) -> None:
        """Hang up, all at once."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _ask(self, line: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(line) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the watchers broke"
        return json.loads(answer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class _Crowd:
    """All watchers of the process."""

    def __init__(self, address: str, job: str, key: str) -> None:
        host, _, port = address.removeprefix("http://").partition(":")
        self._address, self._peer, self._job = address, (host, int(port)), job
        self._headers = {"Authorization": f"Bearer {key}"}
        self._waiting = select.epoll()
        self._streams: dict[int, socket.socket] = {}
        self._polls: dict[int, tuple[socket.socket, bytes]] = {}
        self._got: dict[int, bytes] = {}
        self._heard: dict[int, float] = {}

    def open(self, streams: int, polls: int, tag: str) -> None:
        """Connect, a few at a time, each once those before it are where they should be."""
        stream = get(self._address, f"/v1/jobs/{self._job}/events/stream", self._headers)
        poll = self._poll(tag.encode())
        while streams or polls:
            some = min(OPENING_AT_ONCE, streams or polls)
            before = len(self._heard)
            for _ in range(some):
                line = socket.create_connection(self._peer, timeout=PATIENCE_SECONDS)
                self._waiting.register(line, select.EPOLLIN)
                self._got[line.fileno()] = b""
                if streams:
                    self._streams[line.fileno()] = line
                    line.sendall(stream)
                else:
                    self._polls[line.fileno()] = line, poll
                    line.sendall(poll)
            if streams:
                self._until(before + some)
                streams -= some
            else:
                polls -= some

    def expect(self) -> None:
        """Forget what was heard."""
        self._heard.clear()

    def heard(self) -> dict[str, list[float]]:
        """When each heard, once all have."""
        self._until(len(self._streams) + len(self._polls))
        return {
            "streams": [self._heard[number] for number in self._streams],
            "polls": [self._heard[number] for number in self._polls],
        }

    def _until(self, count: int) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(self._heard) < count:
            assert time.monotonic() < deadline, f"{len(self._heard)} of {count} have heard"
            for number, _ in self._waiting.poll(1.0, 1000):
                if number in self._streams:
                    self._hear_stream(number)
                else:
                    self._hear_poll(number)

    def _hear_stream(self, number: int) -> None:
        piece = self._streams[number].recv(PIECE_BYTES)
        assert piece, "a stream ended"
        if b"\ndata: " in piece:
            self._heard.setdefault(number, time.monotonic())

    def _hear_poll(self, number: int) -> None:
        line, asked = self._polls[number]
        piece = line.recv(PIECE_BYTES)
        assert piece, "a poll was cut off"
        got = self._got[number] + piece
        if not 0 < whole(got) <= len(got):
            self._got[number] = got
            return
        self._got[number] = b""
        if got.startswith(b"HTTP/1.1 200"):
            self._heard.setdefault(number, time.monotonic())
            at = got.index(b"etag: ") + 6
            asked = self._poll(got[at : got.index(b"\r\n", at)])
            self._polls[number] = line, asked
        else:
            assert got.startswith(b"HTTP/1.1 304"), got[:200]
        line.sendall(asked)

    def _poll(self, tag: bytes) -> bytes:
        headers = self._headers | {"If-None-Match": tag.decode()}
        return get(self._address, f"/v1/jobs/{self._job}?wait=60", headers)


def main() -> None:
    """Do what stdin says."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    crowd: _Crowd | None = None
    for line in sys.stdin:
        asked = json.loads(line)
        answer: Any = True
        if crowd is None:
            crowd = _Crowd(sys.argv[1], sys.argv[2], asked["key"])
        elif "open" in asked:
            crowd.open(*asked["open"], asked["tag"])
        elif "expect" in asked:
            crowd.expect()
        else:
            answer = crowd.heard()
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
