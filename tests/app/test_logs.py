import json
from pathlib import Path

import pytest

from tests.app.parts import Api, running_api
from tests.app.test_events import messages


def text(api: Api, job_id: str, **params: int) -> tuple[str, int, int, int]:
    answer = api.http.get(f"/v1/jobs/{job_id}/logs", params=params)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    begin, behind, size = (int(answer.headers[f"X-Log-{name}"]) for name in ("Offset", "Next-Offset", "Size"))
    assert behind - begin == len(answer.content)
    return answer.content.decode(), begin, behind, size


def test_a_log_is_read_whole_from_a_byte_on_and_by_its_last_lines(api: Api) -> None:
    claim = api.running_job()
    api.log(claim, 0, b"one\ntwo\n")
    api.log(claim, 8, b"three\nfour")
    path = claim.job.id
    assert text(api, path) == ("one\ntwo\nthree\nfour", 0, 18, 18)
    assert text(api, path, offset=4) == ("two\nthree\nfour", 4, 18, 18)
    assert text(api, path, offset=18) == ("", 18, 18, 18)
    assert text(api, path, offset=999) == ("", 18, 18, 18)
    assert text(api, path, tail=2) == ("three\nfour", 8, 18, 18)
    assert text(api, path, tail=99) == ("one\ntwo\nthree\nfour", 0, 18, 18)
    assert text(api, path, tail=0) == ("", 18, 18, 18)


def test_a_last_line_break_ends_a_line_and_begins_none(api: Api) -> None:
    claim = api.running_job()
    api.log(claim, 0, b"one\ntwo\n")
    assert text(api, claim.job.id, tail=1)[0] == "two\n"


def test_a_job_that_has_written_nothing_has_an_empty_log(api: Api) -> None:
    api.worker()
    assert text(api, api.submit()["id"]) == ("", 0, 0, 0)


def test_no_character_is_cut_in_two(api: Api) -> None:
    claim = api.running_job()
    whole = "naïve €".encode()
    api.log(claim, 0, whole[:-1])
    assert text(api, claim.job.id)[0] == "naïve "
    api.log(claim, len(whole) - 1, whole[-1:])
    assert text(api, claim.job.id, offset=7)[0] == "€"


def test_bytes_that_are_no_utf_8_are_one_question_mark_each(api: Api) -> None:
    claim = api.running_job()
    api.log(claim, 0, b"a\xff\xfeb\xe2\x82")
    assert text(api, claim.job.id)[:3] == ("a??b", 0, 4)
    api.finish(claim)
    assert text(api, claim.job.id)[:3] == ("a??b??", 0, 6)


def test_a_long_log_comes_in_pieces(home: Path) -> None:
    with running_api(home, f"sqlite:///{home / 'l.db'}", log_answer_max_bytes=10) as api:
        claim = api.running_job()
        api.log(claim, 0, b"0123456\n9abc\nefgh\n")
        assert text(api, claim.job.id) == ("0123456\n9a", 0, 10, 18)
        assert text(api, claim.job.id, offset=10) == ("bc\nefgh\n", 10, 18, 18)
        assert text(api, claim.job.id, tail=5) == ("efgh\n", 13, 18, 18)
        assert text(api, claim.job.id, tail=1)[0] == "efgh\n"
        api.finish(claim)
        answer = api.http.get(f"/v1/jobs/{claim.job.id}/logs/stream")
        told = [event["data"] for event in messages(answer.iter_lines()) if event["event"] == "log"]
        assert [event["text"] for event in told] == ["0123456\n9a", "bc\nefgh\n"]


def test_a_stream_tells_the_log_as_it_grows_and_can_be_resumed(api: Api) -> None:
    claim = api.running_job()
    api.log(claim, 0, b"one\r\n")
    path = f"/v1/jobs/{claim.job.id}/logs/stream"
    with api.http.stream("GET", path, timeout=20) as answer:
        stream = messages(answer.iter_lines())
        first = next(stream)
        assert (first["event"], first["id"], first["data"]) == ("log", "5", {"offset": 0, "text": "one\r\n"})
        api.log(claim, 5, b"two\n")
        assert next(stream)["data"] == {"offset": 5, "text": "two\n"}
        api.finish(claim)
        assert next(stream)["event"] == "done"
    again = list(messages(api.http.get(path, headers={"Last-Event-ID": "5"}).iter_lines()))
    assert [event["data"] for event in again] == [{"offset": 5, "text": "two\n"}, {"status": "succeeded"}]
    assert json.loads(json.dumps(again)) == again


@pytest.mark.parametrize(
    "query", ["offset=-1", "offset=x", "tail=-1", "offset=1&tail=1", f"offset={2**60}", "tail=1e3"]
)
def test_an_offset_or_tail_that_cannot_be_is_refused(any_api: Api, query: str) -> None:
    any_api.worker()
    answer = any_api.http.get(f"/v1/jobs/{any_api.submit()['id']}/logs?{query}")
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_parameter")
