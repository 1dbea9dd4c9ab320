"""What is shipped of an attempt after it is over."""

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from core.attempts import Attempts, Retry
from core.checkpoints import Checkpoints
from core.claims import Claim
from core.database import Database
from core.events import Events
from core.jobs import Jobs
from core.logs import Logs
from core.metrics import Logged, Metrics
from core.security import Caller
from core.states import ReasonCode, Status
from tests.waiting import wait_until
from tests.workers.shipping import Ship
from workers.postmortem import PostMortem


@pytest.fixture
def dead(database: Database, caller: Caller, held: Claim, start: Callable[..., Ship]) -> Ship:
    """A shipper that shipped a step and a line, and died before the rest."""
    ship = start()
    ship.spool.metrics({"loss": 9.0}, 0, 0)
    ship.spool.flush()
    ship.run.log.write_bytes(b"one\n")
    wait_until(lambda: Jobs(database).get(caller.project_id, held.job.id).metrics, what="the first step is shipped")
    wait_until(lambda: Logs(database).size(held.job.id, 1) == 4, what="the first line is shipped")
    ship.shipper.abandon()
    for step in (1, 2):
        ship.spool.metrics({"loss": 9.0 - step}, step, 0)
    ship.spool.phase("validating")
    ship.spool.event("resumed", at=5.0, resume="exact")
    ship.save("late.ckpt", b"late", 2)
    ship.spool.checkpoint_removed("other.ckpt")
    with ship.run.spool.open("ab") as file:
        file.write(b'no record\n{"is":"metrics","at":1,"st')
    with ship.run.log.open("ab") as file:
        file.write(b"two\n")
    return ship


def post_mortem(database: Database, ship: Ship, held: Claim) -> PostMortem:
    return PostMortem(database, ship.config, held.job.id, 1, ship.run)


def lose(database: Database, held: Claim) -> None:
    Attempts(database).lose(held.job.id, held.token, ReasonCode.PREEMPTED, "gone", Retry(1, 1))


def values(database: Database, job_id: str) -> dict[int, float]:
    series = Metrics(database).series(job_id, "loss")
    assert series is not None
    return {point.step: point.value for point in series.points}


def test_the_rest_of_a_lost_attempt_arrives_once_and_what_is_newer_stays(
    database: Database,
    caller: Caller,
    held: Claim,
    dead: Ship,
    claim: Callable[..., Claim],
    worker: Callable[..., str],
) -> None:
    lose(database, held)
    successor = claim(worker("cpu:0"))
    with database.write() as connection:
        newer = Logged(1, 0, successor.job.created_at, {"loss": -1.0})
        Attempts(database).note(connection, held.job.id, successor.token, metrics={"loss": -1.0}, phase="training")
        Metrics(database).add(connection, held.job.id, [newer], 10)
        Logs(database).add(connection, held.job.id, 2, 0, b"second attempt\n")
    for _ in range(2):
        post_mortem(database, dead, held).ship()
    assert values(database, held.job.id) == {0: 9.0, 1: -1.0, 2: 7.0}
    assert Logs(database).read(held.job.id).data == b"one\ntwo\nsecond attempt\n"
    (event,) = [event for event in Events(database).after(held.job.id, 0, 100) if event.type == "resumed"]
    assert event.at.timestamp() == 5.0
    job = Jobs(database).get(caller.project_id, held.job.id)
    assert (job.metrics, job.phase, job.progress) == ({"loss": -1.0}, "training", None)
    assert Checkpoints(database).page(caller.project_id, job.id) == []
    first, second = job.attempts_list
    assert first.spool_offset == dead.run.spool.read_bytes().rindex(b"\n") + 1
    assert first.resume == "exact"
    assert second.spool_offset == 0
    assert job.token == successor.token


def test_the_rest_of_a_job_that_has_ended_arrives_and_it_stays_ended(
    database: Database, caller: Caller, held: Claim, dead: Ship
) -> None:
    Jobs(database).cancel(caller.project_id, held.job.id, force=True)
    lose(database, held)
    post_mortem(database, dead, held).ship()
    assert values(database, held.job.id) == {0: 9.0, 1: 8.0, 2: 7.0}
    job = Jobs(database).get(caller.project_id, held.job.id)
    assert job.status is Status.CANCELLED
    assert job.metrics == {"loss": 9.0}


def test_nothing_is_shipped_of_an_attempt_under_way_nor_of_a_job_that_was_deleted(
    database: Database, caller: Caller, held: Claim, dead: Ship
) -> None:
    post_mortem(database, dead, held).ship()
    assert values(database, held.job.id) == {0: 9.0}
    Jobs(database).cancel(caller.project_id, held.job.id, force=True)
    lose(database, held)
    Jobs(database).delete(caller.project_id, held.job.id, lambda _: None)
    post_mortem(database, dead, held).ship()
    assert Events(database).after(held.job.id, 0, 10) == []


def test_a_long_rest_is_shipped_in_transactions_of_limited_size(database: Database, held: Claim, dead: Ship) -> None:
    lose(database, held)
    config = dead.config.model_copy(update={"ship_batch_points": 10})
    with dead.run.spool.open("ab") as file:
        file.write(b"\n")
    for step in range(3, 60):
        dead.spool.metrics({"loss": float(step)}, step, 0)
    dead.spool.flush()
    shipping = PostMortem(database, config, held.job.id, 1, dead.run)
    before = Jobs(database).look_up(held.job.id)
    shipping.ship()
    after = Jobs(database).look_up(held.job.id)
    assert before is not None
    assert after is not None
    assert after.version - before.version >= 6, "59 points by tens, each transaction a version"
    assert len(values(database, held.job.id)) == 60


def test_an_outage_of_the_database_is_said_so_that_it_is_tried_again(held: Claim, dead: Ship, tmp_path: Path) -> None:
    away = Database(f"sqlite:///{tmp_path}/not/there.db")
    with pytest.raises(OperationalError):
        post_mortem(away, dead, held).ship()
