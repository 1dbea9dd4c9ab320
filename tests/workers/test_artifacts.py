"""Files that a run logs are artifacts at once, by their names."""

from collections.abc import Callable

import pytest

from core.checkpoints import Artifact, Artifacts
from core.claims import Claim
from core.database import Database
from core.events import Events
from tests.core.conftest import emptied
from tests.waiting import wait_until
from tests.workers.shipping import Ship


@pytest.fixture
def database(_sqlite: Database) -> Database:
    """One of them: what is tested is the store. Shippers are tested on both in `test_ship`, what they write in core."""
    return emptied(_sqlite)


def log(ship: Ship, number: int, name: str, data: bytes) -> None:
    (ship.run.outbox / f"logged-{number:06d}").write_bytes(data)
    ship.spool.artifact(f"logged-{number:06d}", name)


def artifacts(database: Database, held: Claim) -> list[Artifact]:
    return list(Artifacts(database).page(held.job.id, limit=200))


def dropped(database: Database, held: Claim) -> list[dict[str, str]]:
    events = Events(database).after(held.job.id, 0, 200)
    return [event.data for event in events if event.type == "artifact_dropped"]


def test_what_a_run_logs_is_there_while_it_goes_on_and_newer_files_take_the_place_of_older(
    database: Database, held: Claim, start: Callable[..., Ship]
) -> None:
    ship = start()
    log(ship, 1, "images/a/step-00000001.png", b"one")
    wait_until(lambda: artifacts(database, held), what="the first is there")
    (first,) = artifacts(database, held)
    assert (first.name, first.media_type, first.size_bytes) == ("images/a/step-00000001.png", "image/png", 3)
    log(ship, 2, "images/a/step-00000001.png", b"other")
    wait_until(lambda: artifacts(database, held)[0].size_bytes == 5, what="the second has taken its place")
    assert ship.finish()
    (second,) = artifacts(database, held)
    assert ship.store.path(second.storage_key).read_bytes() == b"other"
    assert not ship.store.path(first.storage_key).exists()
    assert not list(ship.run.outbox.iterdir())


def test_another_supervisor_goes_on_with_what_was_not_stored_and_makes_no_doubles(
    database: Database, held: Claim, start: Callable[..., Ship]
) -> None:
    ship = start()
    elsewhere = ship.take_store_away()
    for number in range(5):
        log(ship, number, f"texts/{number}.txt", b"text")
    wait_until(lambda: ship.shipper.error is not None, what="they cannot be stored")
    ship.succeed()  # which reads the spool from its beginning again
    assert elsewhere.exists()
    ship.bring_store_back()
    assert ship.finish()
    assert [one.name for one in artifacts(database, held)] == [f"texts/{number}.txt" for number in range(5)]
    assert len(list((ship.store.root / "jobs" / held.job.id / "artifacts").iterdir())) == 5


def test_artifacts_that_wait_for_the_store_are_not_stored_if_they_are_replaced_meanwhile(
    database: Database, held: Claim, start: Callable[..., Ship]
) -> None:
    ship = start()
    ship.take_store_away()
    log(ship, 0, "texts/first.txt", b"0")
    wait_until(lambda: ship.shipper.error is not None, what="it cannot be stored")
    for number in range(1, 50):
        log(ship, number, "texts/newest.txt", str(number).encode())
    waiting = ship.run.path / "uploads"
    wait_until(
        lambda: not list(ship.run.outbox.iterdir()) and len(list(waiting.iterdir())) == 2, what="the newest waits alone"
    )
    ship.bring_store_back()
    assert ship.finish()
    assert [ship.store.path(one.storage_key).read_bytes() for one in artifacts(database, held)] == [b"0", b"49"]


def test_a_job_keeps_so_many_artifacts_of_such_a_size_and_says_once_that_it_dropped_some(
    database: Database, held: Claim, start: Callable[..., Ship]
) -> None:
    ship = start(artifacts_max_count=3, artifact_max_bytes=10, artifacts_max_bytes=14)
    log(ship, 1, "a.txt", b"x" * 10)
    log(ship, 2, "b.txt", b"x" * 11)  # too large
    log(ship, 3, "c.txt", b"x" * 5)  # too large for what is left
    log(ship, 4, "d.txt", b"x")
    log(ship, 5, "e.txt", b"x")
    wait_until(lambda: len(artifacts(database, held)) == 3, what="there are as many as may be")
    log(ship, 6, "f.txt", b"x")  # one too many
    log(ship, 7, "d.txt", b"xx")  # in the place of another
    (ship.run.artifacts / "g.txt").write_text("x")  # too many as well
    assert ship.finish()
    assert {one.name: one.size_bytes for one in artifacts(database, held)} == {"a.txt": 10, "d.txt": 2, "e.txt": 1}
    (told,) = dropped(database, held)
    assert told == {"name": "b.txt", "reason": "it is larger than 10 bytes (LIGHTYARD_ARTIFACT_MAX_BYTES)"}
