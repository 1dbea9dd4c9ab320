"""Weights of checkpoints as safetensors files over HTTP."""

import base64
import hashlib
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from app import weights
from tests.app.parts import Api

WEIGHTS = {"layer.weight": torch.randn(40, 30).t(), "layer.bias": torch.arange(30), "table": torch.randn(3000, 100)}


@pytest.fixture
def path(api: Api, tmp_path: Path) -> str:
    return published(api, tmp_path, {"state_dict": WEIGHTS, "epoch": 1})


def published(api: Api, tmp_path: Path, checkpoint: Any) -> str:
    """Where the weights of a checkpoint with that content are."""
    text = io.BytesIO()
    torch.save(checkpoint, text)
    return of_bytes(api, tmp_path, text.getvalue())


def of_bytes(api: Api, tmp_path: Path, content: bytes) -> str:
    checkpoint_id = api.checkpoint(api.running_job(), content, tmp_path, name="epoch=3-val_acc=0.99.ckpt")
    return f"/v1/checkpoints/{checkpoint_id}/weights"


def test_weights_are_a_safetensors_file_with_its_digest(api: Api, path: str) -> None:
    answer = api.http.get(path)
    assert answer.status_code == 200, answer.text
    read = load(answer.content)
    assert set(read) == set(WEIGHTS)
    assert all(torch.equal(read[name], tensor) for name, tensor in WEIGHTS.items())
    assert answer.headers["Content-Length"] == str(len(answer.content))
    assert answer.headers["Content-Disposition"] == 'attachment; filename="epoch=3-val_acc=0.99.safetensors"'
    digest = base64.b64encode(hashlib.sha256(answer.content).digest()).decode()
    assert answer.headers["Repr-Digest"] == f"sha-256=:{digest}:"
    head = api.http.head(path)
    same = ("Content-Length", "ETag", "Repr-Digest", "Accept-Ranges")
    assert head.content == b""
    assert [head.headers[name] for name in same] == [answer.headers[name] for name in same]


def test_weights_are_resumed_where_they_broke_off(api: Api, path: str) -> None:
    whole = api.http.get(path)
    tag, size = whole.headers["ETag"], len(whole.content)
    for first, last in ((0, 9), (7, 700), (size - 5, size - 1), (1000, size - 1)):
        part = api.http.get(path, headers={"Range": f"bytes={first}-{last}", "If-Range": tag})
        assert (part.status_code, part.headers["Content-Range"]) == (206, f"bytes {first}-{last}/{size}")
        assert part.content == whole.content[first : last + 1]
    assert api.http.get(path, headers={"Range": "bytes=5-", "If-Range": '"another"'}).content == whole.content
    assert api.http.get(path, headers={"Range": f"bytes={size}-"}).status_code == 416
    assert api.http.get(path, headers={"If-None-Match": tag}).status_code == 304
    assert api.http.get(path, headers={"If-Match": '"another"'}).status_code == 412
    assert tag != api.http.head(path.replace("/weights", "/content")).headers["ETag"]


def test_of_very_large_weights_no_digest_is_told(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "DIGEST_BYTES_MAX", 1000)
    answer = api.http.get(published(api, tmp_path, {"state_dict": WEIGHTS, "epoch": 7}))
    assert answer.status_code == 200
    assert "Repr-Digest" not in answer.headers
    assert set(load(answer.content)) == set(WEIGHTS)


@pytest.mark.parametrize(
    ("checkpoint", "code", "words"),
    [
        ({"generator": {"w": torch.ones(1)}, "step": 3}, "no_weights", "'generator' (1 tensors), 'step' (a value)"),
        ({"state_dict": {"w": torch.ones(1, dtype=torch.complex64)}}, "weights_not_exportable", "complex64"),
    ],
)
def test_what_cannot_be_exported_is_422_and_says_why(
    api: Api, tmp_path: Path, checkpoint: Any, code: str, words: str
) -> None:
    answer = api.http.get(published(api, tmp_path, checkpoint))
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert words in answer.json()["detail"]


def test_a_file_that_is_no_checkpoint_of_torchs_is_422(api: Api, tmp_path: Path) -> None:
    answer = api.http.get(of_bytes(api, tmp_path, b"\x80\x04\x8c\x02os\x8c\x06system\x93."))
    assert (answer.status_code, answer.json()["code"]) == (422, "checkpoint_unreadable")


def test_weights_of_what_is_gone_or_was_never_there_are_404(api: Api, path: str) -> None:
    for file in Path(api.config.storage.removeprefix("file://")).rglob("*"):
        if file.is_file() and file.stat().st_size > 1000:
            file.unlink()
    gone = api.http.get(path)
    assert (gone.status_code, gone.json()["code"]) == (404, "file_missing")
    never = api.http.get("/v1/checkpoints/ckpt_01ARZ3NDEKTSV4RRFFQ69G5FAV/weights")
    assert (never.status_code, never.json()["code"]) == (404, "checkpoint_not_found")


def test_who_waits_behind_too_many_is_told_to_come_back(api: Api, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "WAITING_MAX", 0)
    answer = api.http.get(path)
    assert (answer.status_code, answer.json()["code"]) == (503, "too_many_waiters")
    assert answer.headers["Retry-After"] == "5"
