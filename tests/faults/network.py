"""Lines between a process and a server, which can be cut and stalled: TCP proxies of the test's own."""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from enum import Enum, auto
from typing import Any, Self

HOST = "127.0.0.1"
CHUNK_BYTES = 64 * 1024
START_SECONDS = 10.0
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER of zero seconds: closing sends RST, and nothing that was on its way arrives."""


class State(Enum):
    """What a line does with bytes and with new connections."""

    OPEN = auto()
    CUT = auto()
    """Connections are reset, new ones at once."""
    STALLED = auto()
    """Nothing passes; when the line opens again, what was held arrives, as TCP would send it anew."""


class Line:
    """One address that leads to a server's port while it is open."""

    def __init__(self, loop: asyncio.AbstractEventLoop, port: int) -> None:
        self.port = 0
        self._to = port
        self._loop = loop
        self._state = State.OPEN
        self._passes = asyncio.Event()
        self._passes.set()
        self._writers: set[asyncio.StreamWriter] = set()

    def set(self, state: State) -> None:
        """Open, cut or stall the line; returns when it is so."""
        asyncio.run_coroutine_threadsafe(self._set(state), self._loop).result(START_SECONDS)

    async def listen(self) -> asyncio.Server:
        """Take calls."""
        server = await asyncio.start_server(self._take, HOST, 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _set(self, state: State) -> None:
        self._state = state
        if state is State.CUT:
            for writer in list(self._writers):
                _reset(writer)
        if state is State.STALLED:
            self._passes.clear()
        else:
            self._passes.set()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            await self._passes.wait()
            if self._state is State.CUT:
                _reset(writer)
                return
            try:
                far_reader, far_writer = await asyncio.open_connection(HOST, self._to)
            except OSError:
                _reset(writer)
                return
            self._writers.add(far_writer)
            try:
                await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer))
            finally:
                self._writers.discard(far_writer)
                far_writer.close()
        except OSError:
            _reset(writer)
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(CHUNK_BYTES):
                await self._passes.wait()
                writer.write(data)
                await writer.drain()
            await self._passes.wait()
        finally:
            writer.close()  # the other way ends with this one: no client of ours half-closes


class Network:
    """A thread that holds lines. Closed with its `with` block."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._servers: list[asyncio.Server] = []
        self._thread = threading.Thread(target=self._loop.run_forever, name="network", daemon=True)

    def line(self, port: int) -> Line:
        """A new line to a local port."""
        line = Line(self._loop, port)
        self._servers.append(self._do(line.listen))
        return line

    def _do(self, work: Callable[[], Coroutine[Any, Any, asyncio.Server]]) -> asyncio.Server:
        return asyncio.run_coroutine_threadsafe(work(), self._loop).result(START_SECONDS)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._hang_up(), self._loop).result(START_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_SECONDS)
        self._loop.close()

    async def _hang_up(self) -> None:
        for server in self._servers:
            server.close()
        calls = asyncio.all_tasks() - {asyncio.current_task()}
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)


def _reset(writer: asyncio.StreamWriter) -> None:
    found = writer.get_extra_info("socket")
    if found is not None:
        with contextlib.suppress(OSError):
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()
