"""A small service that speaks the HTTP contract and can be told to misbehave: a fake of something we own."""

import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import yaml
from typer.testing import CliRunner, Result

from lightyard import Client, Retry

KEY = "ly_test"
ASKED = {
    "pause": {"pause_requested_at": "2026-01-02T03:04:05Z"},
    "resume": {"pause_requested_at": None, "status": "queued"},
    "checkpoints": {"checkpoint_requested_at": "2026-01-02T03:04:06Z"},
}
"""What an action changes in a job."""


@dataclass
class Request:
    """One request that has come in."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


@dataclass
class Yard:
    """The service's state; a test changes it under the service's feet."""

    url: str = ""
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    answers: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    documents: dict[str, Any] = field(default_factory=dict)
    logs: dict[str, bytes] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    weights: dict[str, bytes] = field(default_factory=dict)
    tells_digest_of_weights: bool = True
    faults: list[dict[str, str]] = field(default_factory=list)
    # What the next requests meet instead of an answer: "drop", or a status with headers and a body.
    mishaps: list[Any] = field(default_factory=list)
    # After how many bytes the next downloads break off, and the bytes that the next ones carry in place of the file.
    breaks: list[int] = field(default_factory=list)
    wrong_files: list[bytes] = field(default_factory=list)
    ignores_range: bool = False
    redirects_to: str | None = None
    changed: threading.Condition = field(default_factory=threading.Condition)

    def add_job(self, **fields: Any) -> str:
        with self.changed:
            job_id = f"job_{len(self.jobs) + 1:04}"
            self.jobs[job_id] = {"id": job_id, "name": None, "status": "queued", "version": 1, "metrics": {}, **fields}
            self.logs[job_id] = b""
            return job_id

    def change(self, job_id: str, **fields: Any) -> None:
        with self.changed:
            self.jobs[job_id] |= fields | {"version": self.jobs[job_id]["version"] + 1}
            self.changed.notify_all()

    def add_checkpoint(self, job_id: str, content: bytes) -> dict[str, Any]:
        checkpoint_id = f"ckpt_{len(self.files) + 1:04}"
        self.files[checkpoint_id] = content
        listed = {
            "id": checkpoint_id, "kind": "user", "step": 10, "epoch": 1, "metrics": {"val_acc": 0.5},
            "size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(),
            "created_at": "2026-01-02T03:04:05Z", "is_best": True, "is_last": False, "pinned": False,
        }  # fmt: skip
        self.documents[f"/v1/jobs/{job_id}/checkpoints"] = {"data": [listed], "next_cursor": None}
        self.documents[f"/v1/jobs/{job_id}/checkpoints/best"] = listed
        return listed

    def seen(self, method: str, path: str) -> list[Request]:
        return [one for one in self.requests if one.method == method and one.path == path]


def handler_of(yard: Yard) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            """Silence: the test has the requests."""

        def do_GET(self) -> None:
            self.serve()

        def do_HEAD(self) -> None:
            self.serve()

        def do_POST(self) -> None:
            self.serve()

        def serve(self) -> None:
            parts = urlsplit(self.path)
            query = {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            request = Request(self.command, unquote(parts.path), query, dict(self.headers), body)
            yard.requests.append(request)
            mishap = yard.mishaps.pop(0) if yard.mishaps else None
            if mishap == "drop":
                return self.hang_up()
            if mishap == "drop after":  # the work is done, the answer is lost
                if request.path == "/v1/jobs":
                    self.create(request, silent=True)
                return self.hang_up()
            if mishap is not None:
                status, headers, text = mishap
                return self.answer(status, text.encode(), "application/problem+json", headers)
            if not request.path.startswith("/store/") and self.headers.get("Authorization") != f"Bearer {KEY}":
                return self.problem(401, "unauthorized", "No valid API key came with the request.")
            return self.route(request)

        def route(self, request: Request) -> None:
            path = request.path
            if self.command == "POST" and path == "/v1/jobs":
                return self.create(request)
            if self.command == "POST" and path == "/v1/jobs:validate":
                return self.json(200, {"valid": not yard.faults, "errors": yard.faults, "config": {"trainer": {}}})
            if path == "/v1/jobs":
                return self.page(request)
            if found := re.fullmatch(r"/(?:v1/checkpoints|store)/(\w+)(?:/content)?", path):
                return self.content(found[1], stored=path.startswith("/store/"))
            if found := re.fullmatch(r"/v1/checkpoints/(\w+)/weights", path):
                if found[1] not in yard.weights:
                    return self.problem(422, "no_weights", "This checkpoint has no tensors.")
                return self.file(yard.weights[found[1]], '"of-the-weights"', with_digest=yard.tells_digest_of_weights)
            if self.command != "POST" and path in yard.documents:
                return self.json(200, yard.documents[path])
            if self.command == "POST" and (found := re.fullmatch(r"/v1/jobs/(\w+)/retry", path)):
                job_id = yard.add_job(parent_id=found[1])
                return self.json(201, yard.jobs[job_id], {"ETag": self.etag(job_id)})
            found = re.fullmatch(r"/v1/jobs/(\w+)(?:/(cancel|pause|resume|checkpoints|logs))?", path)
            if not found or found[1] not in yard.jobs:
                return self.problem(404, "not_found", f"There is no {path} here.")
            if found[2] == "cancel":
                yard.change(found[1], status="cancelled", force=request.query.get("force"))
                return self.json(202, yard.jobs[found[1]])
            if self.command == "POST" and found[2] in ASKED:
                yard.change(found[1], **ASKED[found[2]])
                return self.json(202, yard.jobs[found[1]], {"ETag": self.etag(found[1])})
            if found[2] == "logs":
                return self.log(found[1], request)
            return self.job(found[1], request)

        def create(self, request: Request, *, silent: bool = False) -> None:
            if yard.faults:
                return self.problem(422, "invalid_spec", "The spec is wrong.", errors=yard.faults)
            key = request.headers["Idempotency-Key"]
            replayed = key in yard.answers
            if not replayed:
                # As the service reads it: YAML 1.2's floats are none of this fake's business.
                spec = yaml.safe_load(request.body)
                job_id = yard.add_job(name=spec.get("name"), config=spec.get("config", spec))
                yard.answers[key] = (request.body, job_id)
            body, job_id = yard.answers[key]
            if body != request.body:
                return self.problem(422, "idempotency_key_reused", "This key came with another body before.")
            if silent:
                return None
            headers = {"Idempotent-Replayed": "true"} if replayed else {}
            return self.json(201, yard.jobs[job_id], {"ETag": self.etag(job_id), **headers})

        def page(self, request: Request) -> None:
            status = request.query.get("status")
            jobs = [job for job in reversed(yard.jobs.values()) if status in (None, job["status"])]
            start, limit = int(request.query.get("cursor", 0)), int(request.query.get("limit", 20))
            more = str(start + limit) if start + limit < len(jobs) else None
            self.json(200, {"data": jobs[start : start + limit], "next_cursor": more})

        def job(self, job_id: str, request: Request) -> None:
            with yard.changed:
                known = request.headers.get("If-None-Match")
                # No test waits for a poll's whole length.
                wait_seconds = min(float(request.query.get("wait", 0)), 2.0)
                changed = yard.changed.wait_for(lambda: self.etag(job_id) != known, wait_seconds)
                if not changed:
                    return self.answer(304, b"", "application/json", {"ETag": known})
                return self.json(200, yard.jobs[job_id], {"ETag": self.etag(job_id)})

        def log(self, job_id: str, request: Request) -> None:
            text = yard.logs[job_id]
            if "tail" in request.query:
                text = b"".join(text.splitlines(keepends=True)[-int(request.query["tail"]) :])
            else:
                # A piece at a time, as the service caps what it gives at once.
                offset = int(request.query.get("offset", 0))
                text = text[offset : offset + 16]
            self.answer(200, text, "text/plain", {})

        def content(self, checkpoint_id: str, *, stored: bool) -> None:
            if yard.redirects_to and not stored:
                return self.answer(307, b"", "text/plain", {"Location": yard.redirects_to})
            true = yard.files[checkpoint_id]
            return self.file(true, '"of-the-store"' if stored else f'"{hashlib.sha256(true).hexdigest()}"')

        def file(self, true: bytes, etag: str, *, with_digest: bool = True) -> None:
            digest = hashlib.sha256(true)
            file = yard.wrong_files.pop(0) if yard.wrong_files and self.command == "GET" else true
            headers = {"ETag": etag, "Accept-Ranges": "bytes"}
            if with_digest:
                headers["Repr-Digest"] = f"sha-256=:{base64.b64encode(digest.digest()).decode()}:"
            start, status = 0, 200
            if self.headers.get("Range") == "bytes=0-0":  # what is to come, not the download
                headers["Content-Range"] = f"bytes 0-0/{len(true)}"
                return self.answer(206, true[:1], "application/octet-stream", headers)
            wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            if wanted and not yard.ignores_range and self.headers.get("If-Range", etag) == etag:
                start, status = int(wanted[1]), 206
                if start >= len(file):
                    return self.problem(416, "range_not_satisfiable", "There is nothing there.")
                headers["Content-Range"] = f"bytes {start}-{len(file) - 1}/{len(file)}"
            if yard.breaks and self.command == "GET":
                self.start(status, len(file) - start, "application/octet-stream", headers)
                self.wfile.write(file[start : start + yard.breaks.pop(0)])
                return self.hang_up()
            return self.answer(status, file[start:], "application/octet-stream", headers)

        def etag(self, job_id: str) -> str:
            return f'"{yard.jobs[job_id]["version"]}"'

        def json(self, status: int, document: Any, headers: dict[str, str] | None = None) -> None:
            self.answer(status, json.dumps(document).encode(), "application/json", headers or {})

        def problem(self, status: int, code: str, detail: str, **extra: Any) -> None:
            body = {"title": code, "status": status, "detail": detail, "code": code, "request_id": "req_1", **extra}
            self.answer(status, json.dumps(body).encode(), "application/problem+json", {})

        def answer(self, status: int, body: bytes, media_type: str, headers: dict[str, str]) -> None:
            self.start(status, len(body), media_type, headers)
            if self.command != "HEAD" and status != 304:
                self.wfile.write(body)

        def start(self, status: int, length: int, media_type: str, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {"Content-Type": media_type, "Content-Length": str(length), **headers}.items():
                self.send_header(name, value)
            self.end_headers()

        def hang_up(self) -> None:
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    return Handler


@pytest.fixture
def yard() -> Iterator[Yard]:
    yard = Yard()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(yard))
    server.daemon_threads = True
    yard.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield yard
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def dead_url() -> str:
    """An address at which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture(autouse=True)
def own_home(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees, or writes, the address and key of whoever runs it."""
    for name in ("LIGHTYARD_URL", "LIGHTYARD_API_KEY", "LIGHTYARD_PORT", "LIGHTYARD_HOME", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("LIGHTYARD_RETRY_SECONDS", "1")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def client(yard: Yard) -> Iterator[Client]:
    with Client(yard.url, KEY, retry=Retry(budget_seconds=2, first_wait_seconds=0.01)) as client:
        yield client


@pytest.fixture
def lightyard(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run the command line against the service."""
    from lightyard.cli import app

    monkeypatch.setenv("LIGHTYARD_URL", yard.url)
    monkeypatch.setenv("LIGHTYARD_API_KEY", KEY)
    return lambda *arguments, **options: CliRunner().invoke(app, list(arguments), **options)
