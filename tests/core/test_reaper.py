import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from core import reaper as module
from core.attempts import Attempts, Retry
from core.claims import Claim
from core.database import Database
from core.job import Job
from core.reaper import Reaper
from core.states import Status
from tests.waiting import wait_until

Submit = Callable[..., Job]
Join = Callable[..., str]
Take = Callable[..., Claim | None]

NOW = Retry(0.0001, 1.0)
LEASE_SECONDS = 15.0
MOMENT_SECONDS = 0.1
"""What is not done by then waits for the lock."""


@dataclass
class Clock:
    """This process's monotonic clock, which a test moves."""

    seconds: float = 1000.0

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


@pytest.fixture
def taken(submit: Submit, worker: Join, claim: Take) -> Claim:
    """A job that a worker holds."""
    submit()
    found = claim(worker("cpu:0"), lease_seconds=LEASE_SECONDS)
    assert found is not None
    return found


def watch(reaper: Reaper, clock: Clock, seconds: float, every: float = 1.0) -> list[tuple[str, Status]]:
    """Look as often as a process does, for so long; returns all that was moved."""
    moved: list[tuple[str, Status]] = []
    for _ in range(round(seconds / every)):
        clock.seconds += every
        moved += reaper.look()
    return moved


def test_a_lease_expires_once_it_was_not_renewed_for_as_long_as_it_lasts(
    database: Database, taken: Claim, clock: Clock
) -> None:
    reaper = Reaper(Attempts(database), NOW)
    assert reaper.look() == []
    assert watch(reaper, clock, LEASE_SECONDS) == []
    assert watch(reaper, clock, 1.0) == [(taken.job.id, Status.QUEUED)]
    assert watch(reaper, clock, 60.0) == []


def test_a_lease_that_is_renewed_never_expires(database: Database, taken: Claim, clock: Clock) -> None:
    reaper = Reaper(Attempts(database), NOW)
    for _ in range(5):
        Attempts(database).renew(taken.job.id, taken.token)
        assert watch(reaper, clock, LEASE_SECONDS - 1) == []
    assert watch(reaper, clock, 3.0) == [(taken.job.id, Status.QUEUED)]


@pytest.mark.parametrize("lasted", [LEASE_SECONDS / 2 + 1, 3600.0])
def test_a_process_that_stood_still_waits_anew(database: Database, taken: Claim, clock: Clock, lasted: float) -> None:
    reaper = Reaper(Attempts(database), NOW)
    assert watch(reaper, clock, LEASE_SECONDS) == []
    clock.seconds += lasted
    assert reaper.look() == [], "nothing was seen meanwhile: its worker may have stood still with it"
    assert watch(reaper, clock, LEASE_SECONDS) == []
    assert watch(reaper, clock, 1.0) == [(taken.job.id, Status.QUEUED)]


def test_a_process_that_met_an_outage_waits_anew(
    database: Database, taken: Claim, clock: Clock, tmp_path: Path
) -> None:
    back, away = Attempts(database), Attempts(Database(f"sqlite:///{tmp_path / 'no' / 'such' / 'folder.db'}"))
    reaper = Reaper(back, NOW)
    assert watch(reaper, clock, LEASE_SECONDS) == []
    reaper._attempts = away
    clock.seconds += 1.0
    with pytest.raises(SQLAlchemyError):
        reaper.look()
    reaper._attempts = back
    assert watch(reaper, clock, LEASE_SECONDS + 1) == [], "for as long as a lease lasts after the first look"
    assert watch(reaper, clock, 1.0) == [(taken.job.id, Status.QUEUED)]


def test_a_process_that_looks_as_rarely_as_its_leases_last_still_expires_them(
    database: Database, taken: Claim, clock: Clock
) -> None:
    reaper = Reaper(Attempts(database), NOW)
    moved = watch(reaper, clock, 5 * LEASE_SECONDS, every=LEASE_SECONDS)
    assert moved == [(taken.job.id, Status.QUEUED)]


def test_each_lease_lasts_as_long_as_its_worker_said(
    database: Database, taken: Claim, submit: Submit, worker: Join, claim: Take, clock: Clock
) -> None:
    short = submit()
    assert claim(worker("cpu:0"), lease_seconds=3.0) is not None
    reaper = Reaper(Attempts(database), NOW)
    assert watch(reaper, clock, LEASE_SECONDS) == [(short.id, Status.QUEUED)]
    assert watch(reaper, clock, 2.0) == [(taken.job.id, Status.QUEUED)]


@pytest.mark.parametrize("step", [timedelta(days=-2), timedelta(days=2)])
def test_no_step_of_the_databases_clock_expires_a_lease_or_keeps_it(
    database: Database, taken: Claim, clock: Clock, monkeypatch: pytest.MonkeyPatch, step: timedelta
) -> None:
    reaper, true_now = Reaper(Attempts(database), NOW), Database.now
    assert watch(reaper, clock, LEASE_SECONDS - 2) == []

    def stepped(self: Database, connection: Connection) -> datetime:
        return true_now(self, connection) + step

    monkeypatch.setattr(Database, "now", stepped)
    Attempts(database).renew(taken.job.id, taken.token)
    assert watch(reaper, clock, LEASE_SECONDS) == []
    assert watch(reaper, clock, 2.0) == [(taken.job.id, Status.QUEUED)]


@contextmanager
def locked(database: Database) -> Iterator[None]:
    """Another process may hold the lock of all who write, as a backup does."""
    assert database.engine.url.database
    with closing(sqlite3.connect(database.engine.url.database, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_database_that_is_locked_for_longer_than_a_lease_expires_nobody(
    database: Database, taken: Claim, clock: Clock
) -> None:
    reaper = Reaper(Attempts(database), NOW)
    assert watch(reaper, clock, 3.0) == []
    with ThreadPoolExecutor(1) as pool:
        with locked(database):
            until = clock.seconds + LEASE_SECONDS + 1
            while clock.seconds < until:
                clock.seconds += 1.0
                look = pool.submit(reaper.look)
                if not wait([look], MOMENT_SECONDS).done:
                    clock.seconds = until
        assert look.result() == []
    Attempts(database).renew(taken.job.id, taken.token)
    assert watch(reaper, clock, LEASE_SECONDS) == []
    assert watch(reaper, clock, 2.0) == [(taken.job.id, Status.QUEUED)]


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_lease_that_could_not_be_renewed_while_its_end_waited_for_the_lock_is_left_alone(
    database: Database, submit: Submit, worker: Join, claim: Take
) -> None:
    submit()
    assert claim(worker("cpu:0"), lease_seconds=MOMENT_SECONDS) is not None
    (lease,) = Attempts(database).leases()
    with ThreadPoolExecutor(1) as pool:
        with locked(database):
            began, end = time.monotonic(), pool.submit(Attempts(database).expire, lease, NOW)
            wait_until(lambda: time.monotonic() > began + MOMENT_SECONDS, what="a lease's time has passed")
        assert end.result() is None
    assert Attempts(database).expire(lease, NOW) is Status.QUEUED
