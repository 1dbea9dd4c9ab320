from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from lightyard.retry import Backoff, Retry, retry_after_seconds


def test_waits_double_up_to_their_limit_less_the_jitter() -> None:
    backoff = Backoff(Retry(budget_seconds=1000, first_wait_seconds=1, max_wait_seconds=8))

    waits = [backoff.next_wait() for _ in range(6)]

    for wait, most in zip(waits, [1, 2, 4, 8, 8, 8], strict=True):
        assert wait is not None
        assert most / 2 <= wait <= most


def test_two_clients_do_not_wait_alike() -> None:
    assert len({Backoff(Retry()).next_wait() for _ in range(20)}) > 1


def test_the_budget_ends_the_waiting_and_a_success_renews_it() -> None:
    backoff = Backoff(Retry(budget_seconds=0, first_wait_seconds=1))
    assert backoff.next_wait() is None

    backoff = Backoff(Retry(budget_seconds=1.5, first_wait_seconds=1, max_wait_seconds=100))
    assert backoff.next_wait() is not None
    assert [backoff.next_wait(), backoff.next_wait(), backoff.next_wait()][-1] is None
    backoff.reset()
    assert backoff.next_wait() is not None


def test_what_the_service_asks_for_is_waited_in_full() -> None:
    wait = Backoff(Retry(budget_seconds=100)).next_wait(7)

    assert wait is not None
    assert 7 <= wait <= 7.25


@pytest.mark.parametrize(
    ("header", "seconds"), [(None, None), ("", None), ("7", 7.0), ("0", 0.0), ("soon", None), ("-3", None)]
)
def test_retry_after_is_read(header: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(header) == seconds


def test_retry_after_may_be_a_date() -> None:
    soon = datetime.now(UTC) + timedelta(seconds=30)

    read = retry_after_seconds(format_datetime(soon, usegmt=True))

    assert read is not None
    assert 28 < read <= 30
    assert retry_after_seconds(format_datetime(soon - timedelta(days=1), usegmt=True)) == 0
