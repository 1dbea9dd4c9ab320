from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from core.attempts import CLAIM_PAGES, Attempts, Claim, Reaper, Retry
from core.database import Database
from core.errors import LeaseLost
from core.events import Events
from core.jobs import Job, Jobs
from core.security import Caller
from core.states import ReasonCode, Status
from core.tables import attempts, device_claims, jobs, projects
from tests.waiting import wait_until

Submit = Callable[..., Job]
Join = Callable[..., str]
Take = Callable[..., Claim | None]

NOW = Retry(0.0001, 1.0)
LATER = Retry(60.0, 60.0)


def types(database: Database, job_id: str) -> list[str]:
    return [event.type for event in Events(database).after(job_id, 0, 100)]


def test_a_claim_runs_the_job_under_a_token_on_the_devices_it_took(submit: Submit, worker: Join, claim: Take) -> None:
    job = submit(devices=2)
    taken = claim(worker("cpu:0", "cpu:1", "cpu:2"))
    assert taken is not None
    assert (taken.job.id, taken.job.status, taken.attempt) == (job.id, Status.RUNNING, 1)
    assert taken.devices == ["cpu:0", "cpu:1"]
    assert taken.job.token == taken.token


def test_higher_priority_goes_first_then_age(submit: Submit, worker: Join, claim: Take) -> None:
    old, _, urgent = submit(), submit(), submit(priority=5)
    box = worker("cpu:0", "cpu:1")
    first, second = claim(box), claim(box)
    assert first is not None
    assert second is not None
    assert [first.job.id, second.job.id] == [urgent.id, old.id]


def test_two_jobs_never_share_a_device_and_a_freed_one_is_taken_again(
    database: Database, submit: Submit, worker: Join, claim: Take
) -> None:
    for _ in range(3):
        submit(accelerator="gpu")
    box = worker("gpu:0", "gpu:1")
    first, second = claim(box), claim(box)
    assert first is not None
    assert second is not None
    assert {*first.devices, *second.devices} == {"gpu:0", "gpu:1"}
    assert claim(box) is None
    Attempts(database).finish(second.job.id, second.token, Status.SUCCEEDED)
    third = claim(box)
    assert third is not None
    assert third.devices == second.devices


def test_a_job_for_more_gpus_than_are_free_waits_and_a_smaller_one_runs(
    submit: Submit, worker: Join, claim: Take
) -> None:
    submit(accelerator="gpu", devices=4)
    small = submit(accelerator="gpu", devices=1)
    taken = claim(worker("gpu:0", "gpu:1"))
    assert taken is not None
    assert taken.job.id == small.id


def test_auto_means_the_gpus_where_there_are_some(submit: Submit, worker: Join, claim: Take) -> None:
    submit(accelerator="auto")
    submit(accelerator="auto")
    box = worker("gpu:0", "cpu:0")
    taken = claim(box)
    assert taken is not None
    assert taken.devices == ["gpu:0"]
    assert claim(box) is None, "the CPU slot is for jobs that ask for the CPU"


def test_a_gpu_job_is_not_given_to_a_cpu_worker(submit: Submit, worker: Join, claim: Take) -> None:
    submit(accelerator="gpu")
    assert claim(worker("cpu:0")) is None


def test_a_worker_skips_jobs_whose_classes_it_lacks(submit: Submit, worker: Join, claim: Take) -> None:
    for _ in range(60):
        submit(class_paths=["other.Net"])
    mine = submit(class_paths=["m.Net"])
    taken = claim(worker("cpu:0"), can_run=lambda paths: set(paths) <= {"m.Net"})
    assert taken is not None
    assert taken.job.id == mine.id


def test_hundreds_of_jobs_of_other_classes_at_the_head_do_not_starve_a_worker(
    database: Database, caller: Caller, submit: Submit, worker: Join, claim: Take
) -> None:
    first = submit(priority=2)
    with database.write() as connection:
        row = dict(connection.execute(select(jobs).where(jobs.c.id == first.id)).one()._mapping)
        others = [{"id": f"{first.id}{n:04}", "class_paths": [f"other.Net{n % 300}"]} for n in range(1500)]
        connection.execute(insert(jobs), [row | other for other in others])
    mine = [first, submit(priority=2), submit(priority=1), submit()]
    box = worker(*[f"cpu:{slot}" for slot in range(5)])
    asked: list[str] = []

    def can_run(paths: Sequence[str]) -> bool:
        asked.extend(paths)
        return set(paths) <= {"m.Net"}

    for job in mine:
        asked.clear()
        taken = claim(box, can_run=can_run)
        assert taken is not None
        assert taken.job.id == job.id
        assert len(asked) == len(set(asked)), "what was refused once is not asked about again"
    assert claim(box, can_run=can_run) is None


def test_many_projects_whose_first_jobs_do_not_fit_do_not_starve_the_last(
    database: Database, submit: Submit, worker: Join, claim: Take
) -> None:
    mine = submit()
    with database.write() as connection:
        row = dict(connection.execute(select(jobs).where(jobs.c.id == mine.id)).one()._mapping)
        many = [f"prj_{n:03}" for n in range(CLAIM_PAGES + 20)]
        at = database.now(connection)
        connection.execute(insert(projects), [{"id": one, "name": one, "created_at": at} for one in many])
        other = {"class_paths": ["other.Net"], "priority": 5}
        connection.execute(insert(jobs), [row | other | {"id": f"job_{one}", "project_id": one} for one in many])
    taken = claim(worker("cpu:0"), can_run=lambda paths: set(paths) <= {"m.Net"})
    assert taken is not None
    assert taken.job.id == mine.id


def test_projects_share_by_their_running_jobs_within_a_priority(
    database: Database, submit: Submit, worker: Join, claim: Take
) -> None:
    with database.write() as connection:
        at = database.now(connection)
        connection.execute(insert(projects), [{"id": one, "name": one, "created_at": at} for one in ("prj_b", "prj_c")])

    def put(project_id: str | None = None, **fields: Any) -> str:
        job = submit(**fields)
        if project_id is not None:
            with database.write() as connection:
                connection.execute(update(jobs).where(jobs.c.id == job.id).values(project_id=project_id))
        return job.id

    first = [put() for _ in range(3)]
    second = [put("prj_b") for _ in range(2)]
    third = [put("prj_c", devices=20), put("prj_c", accelerator="gpu"), put("prj_c")]
    urgent = put(priority=1)
    box = worker(*[f"cpu:{slot}" for slot in range(10)])
    claimed = []
    while taken := claim(box):
        claimed.append(taken.job.id)
    # The first project has the urgent job running, so the others' first jobs precede its own.
    assert claimed == [urgent, second[0], third[2], first[0], second[1], first[1], first[2]]


def test_a_claimer_passes_over_a_job_that_another_holds(
    database: Database, submit: Submit, worker: Join, claim: Take
) -> None:
    if database.is_sqlite:
        pytest.skip("SQLite has one writer at a time")
    held, free = submit(), submit()
    box = worker("cpu:0")
    with database.write() as other:
        other.execute(select(jobs.c.id).where(jobs.c.id == held.id).with_for_update())
        taken = claim(box)
    assert taken is not None
    assert taken.job.id == free.id


def test_many_claimers_at_once_take_each_job_once(
    database: Database, submit: Submit, worker: Join, claim: Take
) -> None:
    jobs = {submit().id for _ in range(24)}
    boxes = [worker(*[f"cpu:{slot}" for slot in range(12)]) for _ in range(3)]

    def take_all(box: str) -> list[str]:
        taken = []
        while found := claim(box):
            taken.append(found.job.id)
        return taken

    with ThreadPoolExecutor(6) as pool:
        claimed = [job_id for taken in pool.map(take_all, boxes * 2) for job_id in taken]
    # A claimer that finds the head of the queue locked may leave with nothing; what is left is taken by the next look.
    claimed += [job_id for box in boxes for job_id in take_all(box)]
    assert sorted(claimed) == sorted(jobs)
    with database.read() as connection:
        taken = connection.execute(select(device_claims.c.worker_id, device_claims.c.device)).all()
    assert len(set(taken)) == len(taken) == 24


def test_the_database_itself_refuses_a_second_live_attempt(
    database: Database, submit: Submit, worker: Join, claim: Take
) -> None:
    submit()
    taken = claim(worker("cpu:0"))
    assert taken is not None
    with database.read() as connection:
        row = dict(connection.execute(select(attempts)).one()._mapping)
    with pytest.raises(IntegrityError), database.write() as connection:
        connection.execute(insert(attempts).values(row | {"number": 2, "token": "another"}))


def test_an_expired_lease_requeues_the_job_and_the_zombie_can_write_nothing(
    database: Database, caller: Caller, submit: Submit, worker: Join, claim: Take
) -> None:
    job = submit()
    store = Attempts(database)
    zombie = claim(worker("cpu:0"), lease_seconds=-1)
    assert zombie is not None
    assert store.expire(NOW) == [(job.id, Status.QUEUED)]
    assert store.expire(NOW) == []
    with pytest.raises(LeaseLost):
        store.renew(job.id, zombie.token, 5)
    with pytest.raises(LeaseLost):
        store.orders(job.id, zombie.token)
    with pytest.raises(LeaseLost):
        store.tell(job.id, zombie.token, "first_step")
    with pytest.raises(LeaseLost):
        store.finish(job.id, zombie.token, Status.SUCCEEDED)
    again = claim(worker("cpu:0"))
    assert again is not None
    assert (again.job.id, again.attempt) == (job.id, 2)
    assert again.token != zombie.token
    assert types(database, job.id) == ["created", "claimed", "attempt_lost", "requeued", "claimed"]
    tries = Jobs(database).get(caller.project_id, job.id).attempts_list
    assert [(one.number, one.outcome, one.resume) for one in tries] == [(1, "worker_lost", None), (2, None, None)]


def test_a_renewed_lease_does_not_expire(database: Database, submit: Submit, worker: Join, claim: Take) -> None:
    job = submit()
    taken = claim(worker("cpu:0"), lease_seconds=-1)
    assert taken is not None
    Attempts(database).renew(job.id, taken.token, 60)
    assert Attempts(database).expire(NOW) == []


def test_attempts_that_are_spent_fail_the_job_with_the_last_cause(
    database: Database, caller: Caller, submit: Submit, worker: Join, claim: Take
) -> None:
    job = submit(max_attempts=2)
    for _ in range(2):
        taken = claim(worker("cpu:0"))
        assert taken is not None
        Attempts(database).lose(job.id, taken.token, ReasonCode.WORKER_LOST, "power cut", Retry(0.0, 0.0))
    ended = Jobs(database).get(caller.project_id, job.id)
    assert ended.status is Status.FAILED
    assert ended.reason is not None
    assert ended.reason["code"] == "max_attempts"
    assert "power cut" in ended.reason["message"]
    assert types(database, job.id)[-2:] == ["attempt_lost", "failed"]


def test_a_preempted_attempt_costs_none_and_waits_for_nothing(
    database: Database, submit: Submit, worker: Join, claim: Take
) -> None:
    job = submit(max_attempts=1)
    for number in (1, 2, 3):
        taken = claim(worker("cpu:0"))
        assert taken is not None
        assert taken.attempt == number
        status = Attempts(database).lose(job.id, taken.token, ReasonCode.PREEMPTED, "drained", LATER)
        assert status is Status.QUEUED


def test_a_lost_attempt_backs_off(database: Database, submit: Submit, worker: Join, claim: Take) -> None:
    job = submit()
    taken = claim(worker("cpu:0"))
    assert taken is not None
    Attempts(database).lose(job.id, taken.token, ReasonCode.WORKER_LOST, "gone", LATER)
    assert claim(worker("cpu:0")) is None


def test_a_lost_attempt_of_a_job_to_be_cancelled_ends_cancelled(
    database: Database, caller: Caller, submit: Submit, worker: Join, claim: Take
) -> None:
    job = submit()
    taken = claim(worker("cpu:0"))
    assert taken is not None
    Jobs(database).cancel(caller.project_id, job.id)
    assert Attempts(database).orders(job.id, taken.token).cancel
    status = Attempts(database).lose(job.id, taken.token, ReasonCode.WORKER_LOST, "gone", NOW)
    assert status is Status.CANCELLED


def test_a_worker_that_left_claims_nothing(database: Database, submit: Submit, worker: Join, claim: Take) -> None:
    from core.fleet import Fleet

    submit()
    box = worker("cpu:0")
    Fleet(database).leave(box)
    assert claim(box) is None


def test_a_job_that_waits_for_long_is_claimable_only_where_a_device_is_free(
    database: Database, submit: Submit, worker: Join, claim: Take
) -> None:
    box = worker("cpu:0")
    store = Attempts(database)
    assert not store.claimable(box, 0.0, bool)
    submit()
    assert store.claimable(box, 0.0, bool)
    assert not store.claimable(box, 0.0, lambda paths: "other" in paths)
    assert not store.claimable(box, 60.0, bool)
    submit()
    claim(box)
    assert not store.claimable(box, 0.0, bool)


def test_the_wait_between_attempts_doubles_up_to_its_limit() -> None:
    retry = Retry(first_seconds=1.0, longest_seconds=5.0)
    assert [retry.delay(spent).total_seconds() for spent in (1, 2, 3, 4, 50)] == [1.0, 2.0, 4.0, 5.0, 5.0]


def test_a_further_attempt_says_where_it_started_and_what_was_lost(
    database: Database, caller: Caller, submit: Submit, worker: Join, claim: Take
) -> None:
    job, store = submit(), Attempts(database)
    box = worker("cpu:0")
    for started_from in (None, "ckpt_1"):
        taken = claim(box)
        assert taken is not None
        store.start_from(job.id, taken.token, started_from, 7)
        store.lose(job.id, taken.token, ReasonCode.PREEMPTED, "drained", NOW)
    tries = Jobs(database).get(caller.project_id, job.id).attempts_list
    assert [(one.resume, one.resumed_from, one.steps_lost) for one in tries] == [
        ("restart", None, 7),
        ("exact", "ckpt_1", 7),
    ]
    with pytest.raises(LeaseLost):
        store.start_from(job.id, "an old token", None, 0)


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
