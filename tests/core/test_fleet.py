from collections.abc import Callable

from core.claims import Claim
from core.database import Database
from core.fleet import Fleet
from core.job import Job


def test_a_worker_shows_which_job_has_which_device_until_it_leaves(
    database: Database, submit: Callable[..., Job], worker: Callable[..., str], claim: Callable[..., Claim]
) -> None:
    fleet, box, job = Fleet(database), worker("cpu:0", "cpu:1"), submit()
    claim(box)
    (shown,) = fleet.page(60)
    assert shown.online
    assert dict(shown.busy) == {"cpu:0": job.id}
    assert not fleet.page(-60)[0].online, "silent for longer than allowed"
    fleet.leave(box)
    assert fleet.page(60) == []


def test_catalogues_are_those_of_live_workers_else_the_last_one_announced(
    database: Database, worker: Callable[..., str]
) -> None:
    fleet = Fleet(database)
    assert fleet.catalog_digests(60) == []
    one, two = worker("cpu:0"), worker("cpu:0")
    fleet.announce(one, "a" * 64, '{"n": 1}')
    fleet.announce(two, "b" * 64, '{"n": 2}')
    assert list(fleet.catalog_digests(60)) == ["a" * 64, "b" * 64]
    assert set(fleet.catalog_bodies(["a" * 64, "b" * 64])) == {'{"n": 1}', '{"n": 2}'}
    fleet.leave(two)
    assert list(fleet.catalog_digests(60)) == ["a" * 64]
    fleet.leave(one)
    assert list(fleet.catalog_digests(60)) == ["b" * 64]


def test_workers_silent_for_long_are_forgotten(database: Database, worker: Callable[..., str]) -> None:
    worker("cpu:0")
    Fleet(database).collect(keep_seconds=3600)
    assert len(Fleet(database).page(60)) == 1
    Fleet(database).collect(keep_seconds=-1)
    assert Fleet(database).page(60) == []


def test_catalogues_that_no_worker_names_are_forgotten_but_the_newest_is_kept(
    database: Database, worker: Callable[..., str]
) -> None:
    fleet, one, two = Fleet(database), worker("cpu:0"), worker("cpu:0")
    for box, letter in ((one, "a"), (one, "b"), (two, "c")):
        fleet.announce(box, letter * 64, "{}")
    fleet.collect(keep_seconds=3600)
    assert len(fleet.catalog_bodies(["a" * 64, "b" * 64, "c" * 64])) == 2
    fleet.collect(keep_seconds=-1)
    assert list(fleet.catalog_digests(60)) == ["c" * 64]
