"""The server's side of a connection: uvicorn's, which also sends files that the app has not read.

The app is offered ASGI's extension `http.response.zerocopysend`. A message of that type names an open `file`, an
`offset` and a `count`, all three needed here, and belongs to a response that has told its Content-Length. The file is
mapped and the pages are given to send(2), which copies them once; over loopback that took less CPU than sendfile(2).
"""

import asyncio
import errno
import fcntl
import mmap
import os
import select
import socket
import struct
import termios
from functools import partial
from typing import cast

import anyio
from anyio import CapacityLimiter
from anyio.lowlevel import RunVar
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

ZERO_COPY = "http.response.zerocopysend"
THREADS = 8
"""So many downloads move bytes at the same time. A disk that hangs takes these threads, and no other call's."""
TURN_BYTES = 16 * 2**20
"""So much of a file is mapped at a time; after that, a download goes to the end of the queue for a thread."""
LINGER_MILLISECONDS = 5
"""A thread waits so long for a fast client to make room, rather than have the event loop wait and start a thread."""
FAST_BYTES = 2**20
"""A client is fast that took more than so much within a turn. All others wait without a thread."""
STALLED_SECONDS = 60.0
"""A client that takes not a single byte for so long is cut off."""
GONE = frozenset({errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH})
"""Of an `OSError`: the client cannot be reached any more, as against a file that cannot be read."""

_threads: RunVar[CapacityLimiter] = RunVar("threads that send files")


class Connection(HttpToolsProtocol):
    """One client's connection."""

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        if self.scheme == "http":  # what is sent around TLS would not be encrypted
            cycle.scope["extensions"] = {**(cycle.scope.get("extensions") or {}), ZERO_COPY: {}}
            app = cast(ASGI3Application, partial(self._run, cycle, cast(ASGIApp, app)))
        super()._start_asgi_task(cycle, app)

    async def _run(self, cycle: RequestResponseCycle, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_files_too(message: Message) -> None:
            if message["type"] == ZERO_COPY:
                await self._send_file(cycle, message)
                message = {"type": "http.response.body", "more_body": message.get("more_body", False)}
            await send(message)

        await app(scope, receive, send_files_too)

    async def _send_file(self, cycle: RequestResponseCycle, message: Message) -> None:
        """Send a part of a file behind what was sent before; a client that has gone is no error.

        The transport knows nothing of these bytes, so it must have written all of its own, and reads nothing
        meanwhile that it might want to answer. That the client hangs up is noticed by writing.
        """
        start, count = int(message["offset"]), int(message["count"])
        if not cycle.response_started or cycle.response_complete or cycle.chunked_encoding:
            raise RuntimeError("a file is sent within a response that has told its Content-Length")
        if count > cycle.expected_content_length:
            raise RuntimeError("the part of the file is longer than what Content-Length leaves")
        await self._written()
        if self.transport.is_closing():
            cycle.disconnected = True
            return
        self.flow.pause_reading()
        connection: socket.socket = self.transport.get_extra_info("socket")
        # A descriptor of its own: the transport may close the other one while a thread still uses it.
        with socket.fromfd(connection.fileno(), connection.family, connection.type) as out:
            out.setblocking(False)
            try:
                await self._move(out, message["file"].fileno(), start, start + count)
            except OSError as error:
                if not isinstance(error, (ConnectionError, TimeoutError)) and error.errno not in GONE:
                    raise  # it is of the file
                # What the kernel still holds for the client is not kept either.
                out.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                cycle.disconnected = True
        if cycle.disconnected:
            self.transport.abort()
        cycle.expected_content_length -= count

    async def _written(self) -> None:
        """All that the transport was given is with the kernel."""
        if self.transport.get_write_buffer_size() and not self.transport.is_closing():
            self.transport.set_write_buffer_limits(0)
            async with asyncio.timeout(STALLED_SECONDS):
                await self.flow.drain()
            if not self.transport.is_closing():
                self.transport.set_write_buffer_limits()

    async def _move(self, out: socket.socket, file: int, start: int, end: int) -> None:
        while start < end:
            start, full = await anyio.to_thread.run_sync(_move_some, out, file, start, end, limiter=_limiter())
            if full:
                await self._room(out)

    async def _room(self, out: socket.socket) -> None:
        """Wait until the client has taken something. Raises `TimeoutError` when it takes nothing any more."""
        room = asyncio.Event()
        self.loop.add_writer(out, room.set)
        try:
            left = _left_bytes(out)
            while True:
                try:
                    async with asyncio.timeout(STALLED_SECONDS):
                        await room.wait()
                    return
                except TimeoutError:
                    # There is room only once a good part is free: a slow client may still be taking what is there.
                    before, left = left, _left_bytes(out)
                    if left >= before:
                        raise
        finally:
            self.loop.remove_writer(out)


def _move_some(out: socket.socket, file: int, start: int, end: int) -> tuple[int, bool]:
    """Send from `start` on, at most a turn's bytes, while the client takes them.

    Returns up to where it came, and whether it stopped because the client had no room. Only the kernel ever touches
    the mapped pages: what it cannot read, because the file was cut meanwhile, is an error and no SIGBUS.
    """
    stop = min(end, start + TURN_BYTES)
    fast = start + FAST_BYTES
    base = start - start % mmap.ALLOCATIONGRANULARITY
    if os.fstat(file).st_size < stop:  # only somebody who writes into the store by hand can do that
        raise RuntimeError(f"the file ended before byte {stop}, of which {end} were to be sent")
    with mmap.mmap(file, stop - base, access=mmap.ACCESS_READ, offset=base) as mapped, memoryview(mapped) as view:
        while start < stop:
            try:
                start += out.send(view[start - base :])
            except BlockingIOError:
                if start < fast or not _has_room(out):
                    return start, True
    return start, False


def _has_room(out: socket.socket) -> bool:
    poll = select.poll()
    poll.register(out, select.POLLOUT)
    return bool(poll.poll(LINGER_MILLISECONDS))


def _limiter() -> CapacityLimiter:
    try:
        return _threads.get()
    except LookupError:
        made = CapacityLimiter(THREADS)
        _threads.set(made)
        return made


def _left_bytes(out: socket.socket) -> int:
    """What the kernel holds and the client has not confirmed yet."""
    return int(struct.unpack("i", fcntl.ioctl(out, termios.TIOCOUTQ, bytes(4)))[0])
