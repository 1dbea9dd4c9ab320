import threading
from typing import Any

from lightyard import Client
from lightyard.logs import lines

LOG = "first\nsecond with a ☃ in it\n\nfourth without an end".encode()
LINES = ["first", "second with a ☃ in it", "", "fourth without an end"]


def test_a_log_is_read_to_its_end_a_piece_at_a_time(client: Client, yard: Any) -> None:
    job_id = yard.add_job()
    yard.logs[job_id] = LOG

    assert list(client.logs(job_id)) == LINES


def test_the_last_lines_are_asked_for(client: Client, yard: Any) -> None:
    job_id = yard.add_job()
    yard.logs[job_id] = LOG

    assert list(client.logs(job_id, tail=2)) == LINES[-2:]
    assert yard.requests[-1].query == {"tail": "2", "rank": "0"}


def test_a_followed_log_goes_on_until_the_job_has_ended(client: Client, yard: Any) -> None:
    job_id = yard.add_job(status="running")
    yard.logs[job_id] = b"one\ntw"
    steps = iter(
        [
            lambda: yard.logs.update({job_id: b"one\ntwo\nthree\n"}),
            # The last words come with the end: they must not be missed.
            lambda: (yard.logs.update({job_id: b"one\ntwo\nthree\nfour"}), yard.change(job_id, status="failed")),
        ]
    )

    got = []
    for line in client.logs(job_id, follow=True):
        got.append(line)
        if line in ("one", "three"):
            threading.Timer(0.1, next(steps)).start()

    assert got == ["one", "two", "three", "four"]


def test_following_begins_at_the_tail(client: Client, yard: Any) -> None:
    job_id = yard.add_job(status="succeeded")
    yard.logs[job_id] = b"one\ntwo\nthree\n"

    assert list(client.logs(job_id, follow=True, tail=2)) == ["two", "three"]
    assert list(client.logs(job_id, follow=True, tail=0)) == []


def test_a_log_that_is_dropped_in_mid_answer_loses_and_repeats_nothing(client: Client, yard: Any) -> None:
    job_id = yard.add_job(status="succeeded")
    yard.logs[job_id] = LOG
    yard.mishaps = [None, "drop", None, (503, {}, ""), None, "drop"]

    assert list(client.logs(job_id)) == LINES


def test_bytes_that_are_no_text_are_marked() -> None:
    assert list(lines([b"a\xffb\n", b"\xe2\x98", b"\x83"])) == ["a�b", "☃"]


def test_a_line_without_end_is_not_held_for_ever() -> None:
    assert next(lines([b"x" * 2_000_000, b"never read"])) == "x" * 2_000_000
