"""Bad input: never a 500, never a row left behind."""

import asyncio
import contextlib
import json
import socket
import string
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from core.tables import jobs
from tests.app.parts import CONFIG, Api, running_api

JSON, YAML = "application/json", "application/yaml"
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join(f'*{before}' for _ in range(9))}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("content_type", "body", "status", "code"),
    [
        (JSON, b"", 400, "empty_body"),
        (JSON, b"{", 400, "malformed_json"),
        (JSON, b'{"config": NaN}', 422, "invalid_request"),
        (JSON, b'{"config": 1e999}', 422, "invalid_request"),
        (JSON, b'{"config": {}, "config": {}}', 422, "invalid_request"),
        (JSON, b'{"name": "\\u0000", "config": {}}', 422, "invalid_request"),
        (JSON, b'{"name": "\\ud800", "config": {}}', 422, "invalid_request"),
        (JSON, b'{"name": "\xff"}', 400, "not_utf8"),
        (JSON, b"[" * 100_000, 400, "too_deep"),
        (JSON, b"[" + b"0," * 200_000 + b"0]", 413, "too_many_values"),
        (JSON, b"[]", 422, "invalid_request"),
        (JSON, b'"text"', 422, "invalid_request"),
        (JSON, b"{}", 422, "invalid_request"),
        (YAML, b"a: [", 400, "malformed_yaml"),
        (YAML, BOMB.encode(), 413, "too_many_values"),
        (YAML, b"model: !!python/object/apply:os.system [id]", 422, "invalid_request"),
        (YAML, b"model: &a {x: *a}", 400, None),
        (YAML, b"model: .nan", 422, "invalid_request"),
        ("text/html", b"{}", 415, "unsupported_media_type"),
        ("application/json; charset=latin-1", b"{}", 415, "unsupported_media_type"),
        ("multipart/form-data; boundary=x", b"--x--", 415, "unsupported_media_type"),
        ("", b"{}", 415, "unsupported_media_type"),
    ],
)
def test_a_body_that_cannot_be_taken_is_told_why(
    any_api: Api, content_type: str, body: bytes, status: int, code: str | None
) -> None:
    any_api.worker()
    answer = any_api.http.post("/v1/jobs", content=body, headers={"Content-Type": content_type})
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (status, code or problem["code"]), answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    if status == 415:
        assert "application/yaml" in answer.headers["Accept"]
    if status == 422:
        assert problem["errors"]
    assert any_api.count() == 0


def test_of_many_faults_the_first_hundred_are_told(any_api: Api) -> None:
    any_api.worker()
    body = {"config": {"model": CONFIG["model"], "trainer": {f"max_epocs{number}": 1 for number in range(40_000)}}}
    problem = any_api.http.post("/v1/jobs", json=body).json()
    assert problem["detail"].startswith("More than 100 things")
    assert len(problem["errors"]) == 101
    assert problem["errors"][-1]["code"] == "too_many_faults"
    told = any_api.http.post("/v1/jobs:validate", json=body).json()
    assert told["errors"] == problem["errors"]
    assert any_api.count() == 0


def test_a_body_without_a_content_type_is_refused(any_api: Api) -> None:
    any_api.worker()
    answer = any_api.http.post("/v1/jobs", content=b"{}")
    assert answer.status_code == 415


def test_a_body_of_50_megabytes_is_refused_before_it_is_read(any_api: Api) -> None:
    any_api.worker()
    big = b'{"name": "' + b"x" * 50_000_000 + b'"}'
    answer = any_api.http.post("/v1/jobs", content=big, headers={"Content-Type": JSON}, timeout=30)
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


def test_a_body_that_does_not_say_its_length_is_refused_while_it_comes(any_api: Api) -> None:
    any_api.worker()
    pieces = (b"x" * 2**16 for _ in range(200))
    answer = any_api.http.post("/v1/jobs", content=pieces, headers={"Content-Type": JSON}, timeout=30)
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


def test_only_json_changes_what_is_there(any_api: Api) -> None:
    any_api.worker()
    path = f"/v1/jobs/{any_api.submit()['id']}"
    answer = any_api.http.patch(path, content="name: x", headers={"Content-Type": YAML, "If-Match": "*"})
    assert (answer.status_code, answer.headers["Accept"]) == (415, "application/json")


@pytest.mark.parametrize("unsent", [1, 0])
def test_a_caller_that_hangs_up_leaves_a_whole_job_or_none(any_api: Api, unsent: int) -> None:
    any_api.worker()
    body = json.dumps({"config": CONFIG}).encode()
    head = (
        f"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {any_api.key}\r\n"
        f"Content-Type: {JSON}\r\nContent-Length: {len(body)}\r\nIdempotency-Key: k\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", any_api.config.port)) as connection:
        connection.sendall(head.encode() + body[: len(body) - unsent])
    answer = any_api.http.post("/v1/jobs", content=body, headers={"Content-Type": JSON, "Idempotency-Key": "k"})
    assert answer.status_code == 201
    assert any_api.count() == 1
    assert any_api.job(answer.json()["id"])["status"] == "queued"


def test_a_body_that_comes_too_slowly_is_given_up(home: Path) -> None:
    with running_api(home, f"sqlite:///{home / 'l.db'}", body_timeout_seconds=0.2) as api:
        head = (
            f"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.key}\r\n"
            f"Content-Type: {JSON}\r\nContent-Length: 10\r\n\r\n{{"
        )
        with socket.create_connection(("127.0.0.1", api.config.port), timeout=10) as connection:
            connection.sendall(head.encode())
            answer = b"".join(iter(lambda: connection.recv(4096), b""))
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"request_timeout" in answer


def test_a_wait_outlives_the_time_limit_of_bodies(home: Path) -> None:
    with running_api(home, f"sqlite:///{home / 'l.db'}", body_timeout_seconds=0.1) as api:
        api.worker()
        path = f"/v1/jobs/{api.submit()['id']}"
        tag = api.http.get(path).headers["ETag"]
        assert api.http.get(path, params={"wait": 0.5}, headers={"If-None-Match": tag}).status_code == 304


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
KEYS = st.sampled_from(
    (
        *("config", "name", "labels", "priority", "limits", "subcommand", "model", "data", "trainer", "class_path"),
        *("init_args", "seed_everything", "optimizer", "callbacks", "lr", "max_epochs", "devices", "ckpt_path"),
    )
)
NAMES = st.sampled_from(["models.vision.ImageClassifier", "models.data.Digits", "EarlyStopping", "os.system", ""])
SPECS = st.recursive(
    VALUES | NAMES, lambda inner: st.dictionaries(KEYS, inner, max_size=5) | st.lists(inner, max_size=3), max_leaves=20
)
BOUNDED = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@BOUNDED
@given(spec=SPECS, as_yaml=st.booleans())
def test_whatever_is_submitted_is_taken_or_refused(fuzzed_api: Api, spec: Any, as_yaml: bool) -> None:
    before = rows(fuzzed_api)
    body = (yaml.safe_dump(spec) if as_yaml else json.dumps(spec)).encode("utf-8", "surrogatepass")
    headers = {"Content-Type": YAML if as_yaml else JSON}
    answer = fuzzed_api.http.post("/v1/jobs", content=body, headers=headers)
    assert answer.status_code in (201, 400, 413, 422), (answer.text, body)
    assert rows(fuzzed_api) == before + (answer.status_code == 201)
    validated = fuzzed_api.http.post("/v1/jobs:validate", content=body, headers=headers)
    assert validated.status_code in (200, 400, 413)
    if validated.status_code == 200:
        assert validated.json()["valid"] == (answer.status_code == 201)


@BOUNDED
@given(body=st.binary(max_size=200), content_type=st.sampled_from([JSON, YAML]))
def test_any_bytes_are_taken_or_refused(fuzzed_api: Api, body: bytes, content_type: str) -> None:
    answer = fuzzed_api.http.post("/v1/jobs", content=body, headers={"Content-Type": content_type})
    assert answer.status_code in (400, 413, 422), answer.text
    assert rows(fuzzed_api) == 0


@pytest.fixture
def fuzzed_api(any_api: Api) -> Api:
    """An API with a catalogue, for many examples in a row."""
    any_api.worker()
    return any_api


def rows(api: Api) -> int:
    """How many jobs the database holds."""
    with api.database.read() as connection:
        return connection.execute(select(func.count()).select_from(jobs)).scalar_one()


QUERIES = st.lists(
    st.tuples(
        st.sampled_from(["limit", "cursor", "status", "name", "sort", "label.x", "label.", "wait", "x", "from"]),
        st.text(max_size=12) | st.sampled_from(["queued", "1", "0", "-created_at", "%00", "%ff", "1e5", "9" * 30]),
    ),
    max_size=4,
)


@BOUNDED
@given(query=QUERIES, raw=st.text(alphabet=string.printable, max_size=20))
def test_any_query_is_taken_or_refused(any_api: Api, query: list[tuple[str, str]], raw: str) -> None:
    with contextlib.suppress(UnicodeEncodeError, httpx.InvalidURL):
        assert any_api.http.get("/v1/jobs", params=query).status_code in (200, 400)
        url = httpx.URL(f"{any_api.url}/v1/jobs").copy_with(query=raw.encode())
        assert any_api.http.get(url).status_code in (200, 400)


def test_requests_that_are_not_http_do_not_hurt(any_api: Api) -> None:
    async def send(data: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", any_api.config.port)
        writer.write(data)
        writer.write_eof()
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        return answer

    for data in (b"\x00\xff\x16\x03", b"GET\r\n\r\n", b"GET /v1/jobs\xff HTTP/1.1\r\nHost: x\r\n\r\n"):
        asyncio.run(send(data))
    assert any_api.http.get("/healthz").status_code == 200
