from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy.exc import SQLAlchemyError

from core.attempts import Attempts, Retry
from core.claims import Claim
from core.database import Database
from core.jobs import Job
from core.reaper import Reaper
from core.states import Status
from tests.waiting import wait_until

Submit = Callable[..., Job]
Join = Callable[..., str]
Take = Callable[..., Claim | None]

NOW = Retry(0.0001, 1.0)


def test_leases_expire_only_once_the_database_has_been_there_for_as_long_as_a_lease_lasts(
    database: Database, submit: Submit, worker: Join, claim: Take
) -> None:
    job = submit()
    claim(worker("cpu:0"), lease_seconds=-1)
    assert Reaper(Attempts(database), NOW, lease_seconds=60.0).look() == []
    steady = Reaper(Attempts(database), NOW, lease_seconds=0.05)
    assert steady.look() == []
    assert wait_until(steady.look, what="the lease expires") == [(job.id, Status.QUEUED)]


def test_after_an_outage_workers_have_the_time_of_a_lease_to_renew(
    database: Database, submit: Submit, worker: Join, claim: Take, tmp_path: Path
) -> None:
    away = Database(f"sqlite:///{tmp_path / 'no' / 'such' / 'folder.db'}")
    reaper = Reaper(Attempts(away), NOW, lease_seconds=0.0)
    with pytest.raises(SQLAlchemyError):
        reaper.look()
    submit()
    claim(worker("cpu:0"), lease_seconds=-1)
    back = Reaper(Attempts(database), NOW, lease_seconds=3600.0)
    back.look()
    assert back.look() == []
