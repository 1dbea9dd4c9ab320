import hashlib
import os
from pathlib import Path
from typing import Any

import httpx
import pytest

from lightyard import ApiError, BadAnswerError, Client, DownloadError, UnreachableError
from lightyard.download import content_of_head

FILE = os.urandom(300_000)


@pytest.fixture
def job_id(yard: Any) -> str:
    job_id: str = yard.add_job(status="succeeded")
    yard.add_checkpoint(job_id, FILE)
    return job_id


def gets(yard: Any) -> list[Any]:
    return yard.seen("GET", "/v1/checkpoints/ckpt_0001/content")


def test_the_best_checkpoint_arrives_whole(client: Client, job_id: str, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []

    path = client.download(job_id, on_progress=lambda *bytes_: told.append(bytes_))

    assert path == Path("ckpt_0001.ckpt")
    assert path.read_bytes() == FILE
    assert told[-1] == (len(FILE), len(FILE))
    assert [one.name for one in tmp_path.iterdir()] == ["ckpt_0001.ckpt"]


def test_it_goes_where_it_is_told(client: Client, job_id: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()

    assert client.download(job_id, to=tmp_path / "folder") == tmp_path / "folder" / "ckpt_0001.ckpt"
    assert client.download(job_id, which="ckpt_0001", to=tmp_path / "a.ckpt") == tmp_path / "a.ckpt"
    with pytest.raises(FileNotFoundError):
        client.download(job_id, to=tmp_path / "missing" / "a.ckpt")


def test_a_checkpoint_is_fetched_by_its_own_id(client: Client, job_id: str, yard: Any) -> None:
    path = client.download("ckpt_0001")

    assert path.read_bytes() == FILE
    assert yard.requests[0].method == "HEAD"


def test_a_broken_download_goes_on_where_it_stopped(client: Client, job_id: str, yard: Any) -> None:
    yard.breaks = [100_000, 50_000, 0]

    path = client.download(job_id)

    assert path.read_bytes() == FILE
    first, *others = gets(yard)
    assert "Range" not in first.headers
    assert [one.headers["Range"] for one in others] == ["bytes=100000-", "bytes=150000-", "bytes=150000-"]
    assert all(one.headers["If-Range"] == f'"{hashlib.sha256(FILE).hexdigest()}"' for one in others)


def test_a_download_of_an_earlier_process_is_taken_up(client: Client, job_id: str, yard: Any) -> None:
    Path("best.ckpt.part").write_bytes(FILE[:123_456])

    path = client.download(job_id, to="best.ckpt")

    assert path.read_bytes() == FILE
    assert [one.headers["Range"] for one in gets(yard)] == ["bytes=123456-"]
    assert not Path("best.ckpt.part").exists()


def test_a_whole_part_is_verified_without_a_request(client: Client, job_id: str, yard: Any) -> None:
    Path("best.ckpt.part").write_bytes(FILE)

    assert client.download(job_id, to="best.ckpt").read_bytes() == FILE
    assert gets(yard) == []


@pytest.mark.parametrize("left", [FILE + b"more", b"x" * 1000, b"x" * len(FILE)], ids=["longer", "other", "wrong"])
def test_a_part_of_something_else_does_no_harm(client: Client, job_id: str, left: bytes) -> None:
    Path("best.ckpt.part").write_bytes(left)

    assert client.download(job_id, to="best.ckpt").read_bytes() == FILE


def test_a_service_that_sends_all_in_place_of_a_range_is_begun_anew(client: Client, job_id: str, yard: Any) -> None:
    yard.breaks = [100_000]
    yard.ignores_range = True

    assert client.download(job_id).read_bytes() == FILE
    assert len(gets(yard)) == 2


def test_a_damaged_file_is_fetched_once_more(client: Client, job_id: str, yard: Any) -> None:
    yard.wrong_files = [b"x" * len(FILE)]

    assert client.download(job_id).read_bytes() == FILE
    assert len(gets(yard)) == 2


@pytest.mark.parametrize("wrong", [b"x" * len(FILE), FILE + b"x"], ids=["other", "longer"])
def test_a_file_damaged_twice_is_an_error_that_leaves_nothing(
    client: Client, job_id: str, yard: Any, wrong: bytes
) -> None:
    yard.wrong_files = [wrong, wrong]

    with pytest.raises(DownloadError, match="ckpt_0001"):
        client.download(job_id)

    assert list(Path().iterdir()) == []


def test_a_file_that_stays_short_is_given_up_and_its_part_kept(client: Client, job_id: str, yard: Any) -> None:
    yard.breaks = [1000] + [0] * 1000

    with pytest.raises(UnreachableError):
        client.download(job_id)

    assert Path("ckpt_0001.ckpt.part").read_bytes() == FILE[:1000]
    assert not Path("ckpt_0001.ckpt").exists()


def test_a_download_waits_out_a_service_that_is_away(client: Client, job_id: str, yard: Any) -> None:
    yard.mishaps = [None, (503, {}, ""), "drop", (502, {}, "<html>")]

    assert client.download(job_id).read_bytes() == FILE


def test_a_file_that_is_there_and_right_is_not_fetched_again(client: Client, job_id: str, yard: Any) -> None:
    client.download(job_id)
    client.download(job_id)
    assert len(gets(yard)) == 1

    Path("ckpt_0001.ckpt").write_bytes(b"x" * len(FILE))
    assert client.download(job_id).read_bytes() == FILE


def test_a_redirect_to_an_object_store_is_followed_without_the_key(client: Client, job_id: str, yard: Any) -> None:
    yard.redirects_to = "/store/ckpt_0001"
    yard.breaks = [100_000]

    path = client.download(job_id)

    assert path.read_bytes() == FILE
    first, second = yard.seen("GET", "/store/ckpt_0001")
    assert second.headers["Range"] == "bytes=100000-"
    assert all("Authorization" not in one.headers and "If-Range" not in one.headers for one in (first, second))


def test_a_checkpoint_that_is_not_there_is_told(client: Client, job_id: str, yard: Any) -> None:
    with pytest.raises(ApiError) as missing:
        client.download(job_id, which="ckpt_9999")
    assert missing.value.status == 404

    yard.mishaps = [None, (404, {}, '{"code": "checkpoint_not_found", "detail": "It was deleted."}')]
    with pytest.raises(ApiError, match="deleted"):
        client.download(job_id)


def test_an_empty_file_is_a_file(client: Client, yard: Any) -> None:
    job_id = yard.add_job()
    yard.add_checkpoint(job_id, b"")

    assert client.download(job_id).read_bytes() == b""


def test_an_answer_without_size_or_digest_cannot_be_verified() -> None:
    with pytest.raises(BadAnswerError, match="name its job"):
        content_of_head("ckpt_1", httpx.Response(200, headers={"Content-Length": "3"}))


def test_the_digest_is_read_from_the_etag_where_it_is_one() -> None:
    answer = httpx.Response(200, headers={"Content-Length": "3", "ETag": f'"{"ab" * 32}"'})

    assert content_of_head("ckpt_1", answer).sha256 == "ab" * 32


@pytest.mark.parametrize("digest_is_told", [True, False])
def test_weights_arrive_as_safetensors_through_a_broken_connection(
    client: Client, job_id: str, yard: Any, tmp_path: Path, digest_is_told: bool
) -> None:
    yard.weights["ckpt_0001"] = weights = os.urandom(200_000)
    yard.tells_digest_of_weights = digest_is_told
    yard.breaks = [100_000]

    path = client.download(job_id, weights=True)

    assert path == Path("ckpt_0001.safetensors")
    assert path.read_bytes() == weights
    assert [one.name for one in tmp_path.iterdir()] == ["ckpt_0001.safetensors"]
    again = yard.seen("GET", "/v1/checkpoints/ckpt_0001/weights")[-1]
    assert (again.headers["Range"], again.headers["If-Range"]) == ("bytes=100000-", '"of-the-weights"')


def test_a_part_of_weights_is_taken_up_only_where_a_sha256_will_tell(client: Client, job_id: str, yard: Any) -> None:
    yard.weights["ckpt_0001"] = weights = os.urandom(200_000)
    for told, ranges in ((True, ["bytes=0-0", "bytes=1000-"]), (False, ["bytes=0-0", None])):
        yard.requests.clear()
        yard.tells_digest_of_weights = told
        Path("w.safetensors.part").write_bytes(weights[:1000])
        assert client.download("ckpt_0001", weights=True, to="w.safetensors").read_bytes() == weights
        asked = yard.seen("GET", "/v1/checkpoints/ckpt_0001/weights")
        assert [one.headers.get("Range") for one in asked] == ranges
        Path("w.safetensors").unlink()


def test_weights_that_there_are_none_of_are_refused_with_the_reason(client: Client, job_id: str) -> None:
    with pytest.raises(ApiError, match="no tensors") as caught:
        client.download(job_id, weights=True)
    assert caught.value.code == "no_weights"
