"""A 2 GiB checkpoint over loopback, from one API process, nginx with sendfile, and `python -m http.server`.

All three serve the same file, which lies in the page cache, to the same client: raw sockets that receive into a buffer
and throw away what came. They take turns, in another order each round. What a server costs is its processes' CPU time.
"""

import hashlib
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx

from benchmarks.environments import Missing, debian
from benchmarks.figure import Figure
from core.checkpoints import Checkpoint, Checkpoints
from core.database import Database
from core.ids import new_id
from core.settings import Settings
from core.states import CheckpointKind
from core.storage import Store, job_prefix
from embedded.home import free_port
from embedded.lineage import bound_to_parent
from tests.app.parts import Api
from tests.waiting import wait_until

HOST = "127.0.0.1"
SIZE_BYTES = 2 * 2**30
RANGE_BYTES = 128 * 2**20
BUFFER_BYTES = 2**20
BLOCK_BYTES = 64 * 2**20
ROUNDS = 4
LIMITS = "the client's copy out of the socket and the server's copy into it: two cores move memory, little else"
START_SECONDS = 60.0
TIMEOUT_SECONDS = 60.0
TICKS = os.sysconf("SC_CLK_TCK")
HTTP_SERVER = "python -m http.server"
NGINX = "nginx, sendfile"
NGINX_CONFIG = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log;
{user}
events {{ worker_connections 64; }}
http {{
  access_log off;
  sendfile on;
  tcp_nopush on;
  default_type application/octet-stream;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen {host}:{port};
    root {root};
  }}
}}
"""


@dataclass(frozen=True)
class Server:
    """Where one of the three serves the file, and the process that was started for it."""

    port: int
    path: str
    process: subprocess.Popen[bytes]
    headers: Mapping[str, str]

    @property
    def cpu_seconds(self) -> float:
        """CPU time of its processes so far."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return sum(_cpu_seconds(one) for one in (str(pid), *children))


@dataclass(frozen=True)
class Way:
    """One way to fetch the file: in how many ranges, none for the whole at once, over how many connections."""

    what: str
    ranges: int
    connections: int

    @property
    def spans(self) -> Sequence[tuple[int, int] | None]:
        """First byte and byte behind the last of each request."""
        if not self.ranges:
            return [None]
        return [(number * RANGE_BYTES, (number + 1) * RANGE_BYTES) for number in range(self.ranges)]


WAYS = (
    Way("2 GiB whole", 0, 1),
    Way("2 GiB in 16 ranges, one connection", 16, 1),
    Way("2 GiB in 16 ranges, 4 connections", 16, 4),
)


def measure(folder: Path) -> list[Figure]:
    """Every way to fetch the file, from each server by turns."""
    source = folder / "file"
    digest = _write(source)
    speeds: dict[tuple[str, str], list[float]] = {}
    costs: dict[tuple[str, str], list[float]] = {}
    missing = ""
    with ExitStack() as running:
        servers = {"": running.enter_context(_lightyard(folder / "home", source, digest))}
        (folder / "served").mkdir()
        os.link(source, folder / "served" / "file")
        servers[HTTP_SERVER] = running.enter_context(_http_server(folder / "served"))
        try:
            servers[NGINX] = running.enter_context(_nginx(folder / "served", folder / "nginx"))
        except Missing as reason:
            missing = str(reason)
        for server in servers.values():
            _fetch(server, WAYS[0])  # nobody is measured cold
        for number in range(ROUNDS):
            for way in WAYS:
                for name in sorted(servers, reverse=bool(number % 2)):
                    if way.ranges and name == HTTP_SERVER:
                        continue  # it knows no ranges
                    before = servers[name].cpu_seconds
                    seconds = _fetch(servers[name], way)
                    speeds.setdefault((name, way.what), []).append(SIZE_BYTES / seconds / 1e6)
                    costs.setdefault((name, way.what), []).append(
                        (servers[name].cpu_seconds - before) / (SIZE_BYTES / 1e9)
                    )
    return _figures(speeds, costs, missing)


def _figures(
    speeds: Mapping[tuple[str, str], Sequence[float]], costs: Mapping[tuple[str, str], Sequence[float]], missing: str
) -> list[Figure]:
    figures = []
    for way in WAYS:
        ours, theirs = speeds["", way.what], speeds.get((NGINX, way.what), ())
        met = statistics.median(ours) >= statistics.median(theirs) if theirs else None
        figures.append(Figure(9, way.what, "MB/s", ours, "≥ 1.0 ×", met, NGINX, theirs, missing or LIMITS))
        if (HTTP_SERVER, way.what) in speeds:
            figures.append(Figure(9, way.what, "MB/s", ours, peer=HTTP_SERVER, theirs=speeds[HTTP_SERVER, way.what]))
        what = f"{way.what}: CPU time of the server"
        theirs = costs.get((NGINX, way.what), ())
        figures.append(Figure(9, what, "s/GB", costs["", way.what], peer=NGINX, theirs=theirs, note=missing))
    return figures


def _write(path: Path) -> str:
    """Real bytes, on the disk before anything is measured; returns their sha256."""
    block = os.urandom(BLOCK_BYTES)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for number in range(SIZE_BYTES // BLOCK_BYTES):
            piece = block[number:] + block[:number]
            file.write(piece)
            digest.update(piece)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


@contextmanager
def _lightyard(home: Path, source: Path, sha256: str) -> Iterator[Server]:
    """The API process, as an operator starts it, with the file as a checkpoint of a job."""
    home.mkdir()
    port = free_port(HOST)
    environment = {"LIGHTYARD_HOME": str(home), "LIGHTYARD_HOST": HOST, "LIGHTYARD_PORT": str(port)}
    with _process([sys.executable, "-m", "app"], home / "api.log", environment) as process:
        url = f"http://{HOST}:{port}"
        _wait(process, f"{url}/readyz")
        config = Settings(home=home)
        key = config.key_path.read_text().strip()
        headers = {"Authorization": f"Bearer {key}"}
        database = Database.of(config)
        with httpx.Client(base_url=url, headers=headers, trust_env=False) as http:
            api = Api(config, database, key, url, http, None)  # type: ignore[arg-type]  # it runs in a process of its own
            checkpoint_id = _publish(api, source, sha256)
        database.close()
        yield Server(port, f"/v1/checkpoints/{checkpoint_id}/content", process, headers)


def _publish(api: Api, source: Path, sha256: str) -> str:
    claim = api.running_job()
    checkpoint_id = new_id("ckpt")
    key = f"{job_prefix(claim.job.id)}/checkpoints/{checkpoint_id}"
    Store(api.config.storage).put(source, key)
    row = Checkpoint(
        id=checkpoint_id,
        job_id=claim.job.id,
        attempt=claim.attempt,
        kind=CheckpointKind.MODEL_CHECKPOINT,
        name="last.ckpt",
        step=1,
        epoch=1,
        metrics={},
        size_bytes=SIZE_BYTES,
        sha256=sha256,
        storage_key=key,
        pinned=False,
        created_at=datetime.now(UTC),
    )
    Checkpoints(api.database).publish(claim.token, row)
    return checkpoint_id


@contextmanager
def _nginx(root: Path, folder: Path) -> Iterator[Server]:
    """Raises `Missing`."""
    program = debian("nginx", "nginx")
    folder.mkdir()
    port = free_port(HOST)
    # Who is root would otherwise have the worker become somebody who may not read the folder.
    user = "user root;" if os.geteuid() == 0 else ""
    config = folder / "nginx.conf"
    config.write_text(NGINX_CONFIG.format(folder=folder, user=user, host=HOST, port=port, root=root))
    command = [str(program), "-p", str(folder), "-e", str(folder / "nginx.log"), "-c", str(config)]
    with _process(command, folder / "out.log", {}) as process:
        _wait(process, f"http://{HOST}:{port}/")
        yield Server(port, "/file", process, {})


@contextmanager
def _http_server(root: Path) -> Iterator[Server]:
    port = free_port(HOST)
    command = [sys.executable, "-m", "http.server", str(port), "--bind", HOST, "--directory", str(root)]
    with _process(command, root.with_name("http_server.log"), {}) as process:
        _wait(process, f"http://{HOST}:{port}/")
        yield Server(port, "/file", process, {})


@contextmanager
def _process(
    command: Sequence[str], log_path: Path, environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            command,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=bound_to_parent(),
        )
    try:
        yield process
    except BaseException:
        sys.stderr.write(log_path.read_text(errors="replace")[-2000:])
        raise
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait(process: subprocess.Popen[bytes], url: str) -> None:
    def answers() -> bool:
        assert process.poll() is None, f"it ended with {process.returncode}"
        try:
            return httpx.get(url, trust_env=False).status_code < 500
        except httpx.TransportError:
            return False

    wait_until(answers, what=f"{url} answers", deadline_seconds=START_SECONDS)


def _fetch(server: Server, way: Way) -> float:
    """Seconds from the first connect until the last byte has come."""
    spans = way.spans
    shares = [spans[number :: way.connections] for number in range(way.connections)]
    with ThreadPoolExecutor(way.connections) as threads:
        began = time.perf_counter()
        received = sum(threads.map(lambda share: _receive(server, share), shares))
        seconds = time.perf_counter() - began
    assert received == SIZE_BYTES, f"{received} bytes came"
    return seconds


def _receive(server: Server, spans: Sequence[tuple[int, int] | None]) -> int:
    """Fetch one span after the other over one connection; returns how many bytes came."""
    received = 0
    buffer = memoryview(bytearray(BUFFER_BYTES))
    with socket.create_connection((HOST, server.port), TIMEOUT_SECONDS) as connection:
        for span in spans:
            headers = {"Host": HOST, **server.headers}
            if span is not None:
                headers["Range"] = f"bytes={span[0]}-{span[1] - 1}"
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            connection.sendall(f"GET {server.path} HTTP/1.1\r\n{lines}\r\n".encode())
            left, there = _head(connection, 200 if span is None else 206)
            received += there
            left -= there
            while left:
                count = connection.recv_into(buffer, min(left, BUFFER_BYTES))
                assert count, f"the connection ended {left} bytes early"
                received += count
                left -= count
    return received


def _head(connection: socket.socket, status: int) -> tuple[int, int]:
    """Length of the answer's body, and how much of it came along with the head."""
    head = b""
    while b"\r\n\r\n" not in head:
        piece = connection.recv(4096)
        assert piece, "the connection ended"
        head += piece
    told, _, body = head.partition(b"\r\n\r\n")
    line, *fields = told.decode("latin-1").split("\r\n")
    assert line.split()[1] == str(status), line
    lengths = [
        value for name, _, value in (field.partition(":") for field in fields) if name.lower() == "content-length"
    ]
    return int(lengths[0]), len(body)


def _cpu_seconds(pid: str) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS
