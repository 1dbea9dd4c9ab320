from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import insert, select, update
from sqlalchemy.exc import IntegrityError

from core.attempts import Attempts, Retry
from core.claims import CLAIM_PAGE, CLAIM_PAGES, Claim, Claims
from core.database import Database
from core.job import Job
from core.security import Caller
from core.states import ReasonCode, Status
from core.tables import attempts, device_claims, jobs, projects

Submit = Callable[..., Job]
Join = Callable[..., str]
Take = Callable[..., Claim | None]


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


def test_a_claimer_passes_over_all_that_others_hold_to_the_next_in_order(
    database: Database, submit: Submit, worker: Join, claim: Take
) -> None:
    if database.is_sqlite:
        pytest.skip("SQLite has one writer at a time")
    order = sorted(submit().id for _ in range(CLAIM_PAGE + 10))
    free = [order[7], order[CLAIM_PAGE - 3], order[CLAIM_PAGE + 5]]
    box = worker(*[f"cpu:{slot}" for slot in range(4)])
    with database.write() as other:
        other.execute(select(jobs.c.id).where(jobs.c.id.not_in(free)).with_for_update())
        taken = [claim(box) for _ in range(4)]
    assert [one and one.job.id for one in taken] == [*free, None]


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
    assert not Claims(database).claimable(box, 0.0, bool)
    submit()
    assert Claims(database).claimable(box, 0.0, bool)
    assert not Claims(database).claimable(box, 0.0, lambda paths: "other" in paths)
    assert not Claims(database).claimable(box, 60.0, bool)
    submit()
    claim(box)
    assert not Claims(database).claimable(box, 0.0, bool)


def test_a_job_whose_backoff_is_over_is_claimable_without_a_bell(
    database: Database, submit: Submit, worker: Join, claim: Take
) -> None:
    box = worker("cpu:0")
    for seconds, is_over in ((0.0, True), (60.0, False)):
        job = submit()
        taken = claim(box)
        assert taken is not None
        Attempts(database).lose(job.id, taken.token, ReasonCode.WORKER_LOST, "gone", Retry(seconds, 60.0))
        assert Claims(database).claimable(box, 60.0, bool) is is_over
        assert (claim(box) is not None) is is_over
        for lease in Attempts(database).leases():
            Attempts(database).finish(lease.job_id, lease.token, Status.SUCCEEDED)


@pytest.mark.parametrize(("ahead", "waits"), [(timedelta(days=2), False), (timedelta(seconds=600), True)])
def test_a_clock_that_was_set_back_holds_no_job_back(
    database: Database, submit: Submit, worker: Join, claim: Take, ahead: timedelta, waits: bool
) -> None:
    job, box = submit(), worker("cpu:0")
    with database.write() as connection:
        later = database.now(connection) + ahead
        connection.execute(update(jobs).where(jobs.c.id == job.id).values(available_at=later))
    assert Claims(database).claimable(box, 3.0, bool) is not waits
    assert (claim(box) is None) is waits


def test_what_an_attempt_was_given_can_be_read_again_while_it_is_under_way(
    database: Database, submit: Submit, worker: Join, claim: Take
) -> None:
    job = submit(devices=2)
    taken = claim(worker("cpu:0", "cpu:1"))
    assert taken is not None
    with database.write() as connection:
        Attempts(database).note(connection, job.id, taken.token, spool_offset=17)
    held = Claims(database).held(job.id, 1)
    assert held is not None
    assert (held.token, held.devices, held.attempt, held.job.id) == (taken.token, taken.devices, 1, job.id)
    assert (taken.spool_offset, held.spool_offset) == (0, 17)
    assert Claims(database).held(job.id, 2) is None
    Attempts(database).finish(job.id, taken.token, Status.SUCCEEDED)
    assert Claims(database).held(job.id, 1) is None
