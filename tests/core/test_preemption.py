from collections.abc import Callable

from core.attempts import Attempts
from core.claims import Claim
from core.database import Database
from core.events import Events
from core.job import Job
from core.jobs import Jobs
from core.preemption import Preemption
from core.security import Caller
from core.states import Status

Submit = Callable[..., Job]
Join = Callable[..., str]
Take = Callable[..., Claim]


def make_room(database: Database, worker_id: str, older_than_seconds: float = 0.0) -> list[str]:
    return list(Preemption(database).make_room(worker_id, older_than_seconds, lambda paths: paths != ["m.Foreign"]))


def test_the_lowest_and_youngest_of_the_running_jobs_makes_room(
    database: Database, submit: Submit, worker: Join, claim: Take
) -> None:
    box = worker("cpu:0", "cpu:1", "cpu:2")
    kept, older, younger = (submit(priority=priority) for priority in (1, 0, 0))
    held = {job.id: claim(box) for job in (kept, older, younger)}
    urgent = submit(priority=5)
    assert make_room(database, box) == [younger.id]
    asked = held[younger.id]
    assert Attempts(database).orders(younger.id, asked.token).preempt
    assert not Attempts(database).orders(older.id, held[older.id].token).stop
    last = Events(database).after(younger.id, 0, 10)[-1]
    assert (last.type, last.data) == ("preempt_requested", {"by": urgent.id})
    assert make_room(database, box) == [], "room is coming"
    assert Attempts(database).stopped(younger.id, asked.token, "stopped", saved=True) is Status.QUEUED
    assert claim(box).job.id == urgent.id


def test_a_job_has_room_made_for_it_on_one_worker_only(
    database: Database, submit: Submit, worker: Join, claim: Take
) -> None:
    one, other = worker("cpu:0"), worker("cpu:0")
    for box in (one, other):
        submit()
        claim(box)
    submit(priority=1)
    assert len(make_room(database, one)) == 1
    assert make_room(database, other) == []


def test_nobody_is_asked_where_that_would_not_be_enough_or_is_not_needed(
    database: Database, caller: Caller, submit: Submit, worker: Join, claim: Take
) -> None:
    box = worker("cpu:0", "cpu:1")
    submit(priority=0)
    submit(priority=5)
    claim(box)
    claim(box)
    submit(priority=0)
    large = submit(priority=3, devices=2)
    foreign = submit(priority=4, class_paths=["m.Foreign"])
    assert make_room(database, box) == [], "an equal, one that needs both devices, one of other classes"
    for job in (large, foreign):
        Jobs(database).cancel(caller.project_id, job.id)
    higher = submit(priority=1)
    assert make_room(database, box, older_than_seconds=3600) == [], "another worker may have a device free"
    assert make_room(database, worker("cpu:0")) == [], "a device is free here"
    assert len(make_room(database, box)) == 1
    assert Jobs(database).get(caller.project_id, higher.id).status is Status.QUEUED


def test_several_jobs_make_room_for_one_that_needs_their_devices(
    database: Database, submit: Submit, worker: Join, claim: Take
) -> None:
    box = worker("cpu:0", "cpu:1", "gpu:0")
    running = [submit(accelerator=kind) for kind in ("cpu", "cpu", "gpu")]
    for _ in running:
        claim(box)
    submit(accelerator="cpu", devices=2, priority=1)
    assert sorted(make_room(database, box)) == sorted(job.id for job in running[:2])
