"""Checkpoints and artifacts, and their files over HTTP."""

import base64
import hashlib
from pathlib import Path

import pytest

from core.checkpoints import Checkpoints
from core.storage import Store
from tests.app.parts import Api

CONTENT = bytes(range(256)) * 20_000  # 5 chunks
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def test_checkpoints_are_listed_newest_first_and_pointed_at(api: Api, tmp_path: Path) -> None:
    claim = api.running_job()
    path = f"/v1/jobs/{claim.job.id}/checkpoints"
    for which in ("best", "last"):
        missing = api.http.get(f"{path}/{which}")
        assert (missing.status_code, missing.json()["code"]) == (404, "no_checkpoint_yet")
    best = api.checkpoint(claim, b"a", tmp_path, name="best.ckpt", is_best=True)
    last = api.checkpoint(claim, b"bc", tmp_path, name="last.ckpt", is_last=True)
    rows = api.http.get(path).json()["data"]
    assert [row["id"] for row in rows] == [last, best]
    assert rows[0] == {
        "id": last,
        "name": "last.ckpt",
        "kind": "model_checkpoint",
        "step": 10,
        "epoch": 1,
        "metrics": {"val_acc": 0.5},
        "size_bytes": 2,
        "sha256": hashlib.sha256(b"bc").hexdigest(),
        "created_at": rows[0]["created_at"],
        "is_best": False,
        "is_last": True,
        "pinned": False,
    }
    assert api.http.get(f"{path}/best").json() == rows[1]
    assert api.http.get(f"{path}/last").json() == rows[0]
    page = api.http.get(path, params={"limit": 1}).json()
    assert [row["id"] for row in api.http.get(path, params={"cursor": page["next_cursor"]}).json()["data"]] == [best]


def test_a_download_is_the_file_with_its_digests(api: Api, tmp_path: Path) -> None:
    claim = api.running_job()
    checkpoint_id = api.checkpoint(claim, CONTENT, tmp_path, name="epoch=3-val_acc=0.99")
    answer = api.http.get(f"/v1/checkpoints/{checkpoint_id}/content")
    assert answer.status_code == 200
    assert answer.content == CONTENT
    assert answer.headers["Content-Length"] == str(len(CONTENT))
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["ETag"] == f'"{SHA256}"'
    digest = base64.b64encode(hashlib.sha256(CONTENT).digest()).decode()
    assert answer.headers["Repr-Digest"] == f"sha-256=:{digest}:"
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="epoch=3-val_acc=0.99.ckpt"'


def test_head_tells_all_but_the_file(api: Api, tmp_path: Path) -> None:
    claim = api.running_job()
    path = f"/v1/checkpoints/{api.checkpoint(claim, CONTENT, tmp_path)}/content"
    head, whole = api.http.head(path, headers={"Range": "bytes=0-9"}), api.http.get(path)
    assert (head.status_code, head.content) == (200, b"")
    for header in ("Content-Length", "ETag", "Repr-Digest", "Content-Disposition", "Accept-Ranges"):
        assert head.headers[header] == whole.headers[header]


SIZE = len(CONTENT)


@pytest.fixture
def path(any_api: Api, tmp_path: Path) -> str:
    """Where a checkpoint's file is downloaded from."""
    return f"/v1/checkpoints/{any_api.checkpoint(any_api.running_job(), CONTENT, tmp_path)}/content"


@pytest.mark.parametrize(
    ("header", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=1048570-1048590", 1048570, 1048591),
        (f"bytes={SIZE - 1}-", SIZE - 1, SIZE),
        (f"bytes=100-{SIZE * 9}", 100, SIZE),
        ("bytes=-5", SIZE - 5, SIZE),
        (f"bytes=-{SIZE * 9}", 0, SIZE),
        (f"bytes=0-{'9' * 26}", 0, SIZE),
        (f"bytes=-{'9' * 26}", 0, SIZE),
        ("BYTES=0-0", 0, 1),
    ],
)
def test_a_range_is_answered_with_206(any_api: Api, path: str, header: str, start: int, end: int) -> None:
    answer = any_api.http.get(path, headers={"Range": header})
    assert answer.status_code == 206
    assert answer.headers["Content-Range"] == f"bytes {start}-{end - 1}/{SIZE}"
    assert answer.headers["Content-Length"] == str(end - start)
    assert answer.headers["ETag"] == f'"{SHA256}"'
    assert answer.content == CONTENT[start:end]


@pytest.mark.parametrize("header", [f"bytes={SIZE}-", f"bytes={SIZE * 2}-{SIZE * 3}", "bytes=-0", f"bytes={'9' * 25}-"])
def test_a_range_outside_the_file_is_416(any_api: Api, path: str, header: str) -> None:
    answer = any_api.http.get(path, headers={"Range": header})
    assert (answer.status_code, answer.json()["code"]) == (416, "range_not_satisfiable")
    assert answer.headers["Content-Range"] == f"bytes */{SIZE}"


@pytest.mark.parametrize(
    "header",
    ["bytes=", "bytes=-", "bytes=x-y", "bytes=5-1", "bytes=0-1,5-6", "lines=0-1", "0-1", f"bytes={'9' * 2000}-"],
)
def test_what_is_no_single_range_brings_the_whole_file(any_api: Api, path: str, header: str) -> None:
    answer = any_api.http.get(path, headers={"Range": header})
    assert answer.status_code == 200
    assert len(answer.content) == SIZE


@pytest.mark.parametrize(
    ("condition", "status"),
    [(f'"{SHA256}"', 206), (f'W/"{SHA256}"', 200), ('"other"', 200), ("Wed, 21 Oct 2015 07:28:00 GMT", 200)],
)
def test_if_range_resumes_only_the_same_file(any_api: Api, path: str, condition: str, status: int) -> None:
    answer = any_api.http.get(path, headers={"Range": "bytes=5-9", "If-Range": condition})
    assert answer.status_code == status
    assert answer.content == (CONTENT[5:10] if status == 206 else CONTENT)


def test_a_file_that_the_caller_has_is_not_sent_again(any_api: Api, path: str) -> None:
    answer = any_api.http.get(path, headers={"If-None-Match": f'"{SHA256}"'})
    assert (answer.status_code, answer.content) == (304, b"")


@pytest.mark.parametrize(
    ("condition", "status"),
    [(f'"{SHA256}"', 200), ("*", 200), (f'"x", "{SHA256}"', 200), ('"other"', 412), (f'W/"{SHA256}"', 412)],
)
def test_if_match_brings_that_file_or_none(any_api: Api, path: str, condition: str, status: int) -> None:
    answer = any_api.http.get(path, headers={"If-Match": condition, "If-None-Match": '"other"'})
    assert answer.status_code == status
    assert answer.headers["ETag"] == f'"{SHA256}"'
    if status == 412:
        assert answer.json()["code"] == "precondition_failed"


def test_a_file_removed_while_it_is_downloaded_comes_whole(api: Api, tmp_path: Path) -> None:
    claim = api.running_job()
    checkpoint_id = api.checkpoint(claim, CONTENT, tmp_path)
    with api.http.stream("GET", f"/v1/checkpoints/{checkpoint_id}/content") as answer:
        pieces = answer.iter_raw(1024)
        first = next(pieces)
        assert api.http.delete(f"/v1/checkpoints/{checkpoint_id}").status_code == 204
        assert first + b"".join(pieces) == CONTENT
    assert api.http.get(f"/v1/checkpoints/{checkpoint_id}/content").status_code == 404


def test_a_file_that_is_gone_or_cut_is_told_so(api: Api, tmp_path: Path) -> None:
    claim = api.running_job()
    checkpoint_id = api.checkpoint(claim, CONTENT, tmp_path)
    key = Checkpoints(api.database).named(claim.job.id, "last.ckpt")[0].storage_key
    file = Store(api.config.storage).path(key)
    file.write_bytes(b"short")
    cut = api.http.get(f"/v1/checkpoints/{checkpoint_id}/content")
    assert (cut.status_code, cut.json()["code"]) == (404, "file_damaged")
    file.unlink()
    gone = api.http.get(f"/v1/checkpoints/{checkpoint_id}/content")
    assert (gone.status_code, gone.json()["code"]) == (404, "file_missing")


def test_an_empty_file_can_be_downloaded(any_api: Api, tmp_path: Path) -> None:
    path = f"/v1/checkpoints/{any_api.checkpoint(any_api.running_job(), b'', tmp_path)}/content"
    assert any_api.http.get(path).content == b""
    assert any_api.http.get(path, headers={"Range": "bytes=0-"}).status_code == 416


def test_a_pinned_checkpoint_cannot_be_deleted(api: Api, tmp_path: Path) -> None:
    claim = api.running_job()
    path = f"/v1/checkpoints/{api.checkpoint(claim, b'x', tmp_path, is_last=True)}"
    assert api.http.patch(path, json={"pinned": True}).json()["pinned"] is True
    refused = api.http.delete(path)
    assert (refused.status_code, refused.json()["code"]) == (409, "checkpoint_pinned")
    assert api.http.patch(path, json={"pinned": False}).json()["pinned"] is False
    assert api.http.delete(path).status_code == 204
    assert api.job(claim.job.id)["last_checkpoint_id"] is None


@pytest.mark.parametrize(
    ("body", "pointers"),
    [({}, ["/pinned"]), ({"pinned": "yes"}, ["/pinned"]), ({"pinned": True, "kind": "x"}, ["/kind"]), ([], [""])],
)
def test_every_fault_of_a_pin_is_told(any_api: Api, tmp_path: Path, body: object, pointers: list[str]) -> None:
    path = f"/v1/checkpoints/{any_api.checkpoint(any_api.running_job(), b'x', tmp_path)}"
    answer = any_api.http.patch(path, json=body)
    assert (answer.status_code, [fault["pointer"] for fault in answer.json()["errors"]]) == (422, pointers)


@pytest.mark.parametrize(
    "bad", ["x", "ckpt_x", "job_01jd0000000000000000000000", "ckpt_%00", "ckpt_01jd0000000000000000000000"]
)
def test_an_unknown_checkpoint_is_not_found(any_api: Api, bad: str) -> None:
    for method, path in (("GET", "/content"), ("PATCH", ""), ("DELETE", "")):
        answer = any_api.http.request(method, f"/v1/checkpoints/{bad}{path}", json={"pinned": True})
        assert (answer.status_code, answer.json()["code"]) == (404, "checkpoint_not_found")


def test_artifacts_are_listed_by_name_and_downloaded(api: Api, tmp_path: Path) -> None:
    claim = api.running_job()
    api.artifact(claim, "profile/report.txt", b"slow", tmp_path)
    api.artifact(claim, "näme.html", b"<script>", tmp_path, media_type="text/html; charset=utf-8")
    api.artifact(claim, "odd", b"x", tmp_path, media_type="bad\ntype")
    path = f"/v1/jobs/{claim.job.id}/artifacts"
    rows = api.http.get(path).json()["data"]
    assert {row["name"] for row in rows} == {"profile/report.txt", "näme.html", "odd"}
    first = api.http.get(path, params={"limit": 1}).json()
    rest = api.http.get(path, params={"cursor": first["next_cursor"]}).json()
    assert first["data"] + rest["data"] == rows
    for name in ("profile/report.txt", "profile%2Freport.txt"):
        report = api.http.get(f"{path}/{name}", headers={"Range": "bytes=1-2"})
        assert (report.status_code, report.content) == (206, b"lo")
        assert report.headers["Content-Disposition"] == 'attachment; filename="report.txt"'
    page = api.http.get(f"{path}/näme.html")
    assert page.headers["Content-Disposition"] == "attachment; filename=\"n_me.html\"; filename*=UTF-8''n%C3%A4me.html"
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    assert api.http.get(f"{path}/odd").headers["Content-Type"] == "application/octet-stream"
    for name in ("none", "%00", "../x", "profile"):
        assert api.http.get(f"{path}/{name}").status_code == 404
