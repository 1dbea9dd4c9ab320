"""Core against a model of itself: any sequence of verbs, on each database, leaves both in the same state."""

import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import delete, insert

from core.attempts import Attempts, Retry
from core.checkpoints import Checkpoint, Checkpoints
from core.claims import Claims
from core.database import Database
from core.errors import Conflict, LeaseLost, NotFound, PreconditionFailed
from core.fleet import Fleet
from core.ids import new_id
from core.job import Attempt, Job, NewJob, as_job
from core.jobs import Jobs
from core.preemption import Preemption
from core.states import CheckpointKind, ReasonCode, Status
from core.tables import jobs, projects, workers
from tests.core.agreement import by_job, check_attempts, check_job, everything, visible
from tests.core.model import FINAL, ModelJob

RANDOM_EXAMPLES = int(os.environ.get("LIGHTYARD_TEST_EXAMPLES", "0"))
"""How many sequences to draw anew, on each database, and to make short where one fails; 0: the same few each time."""
SETTINGS = settings(
    stateful_step_count=30,
    derandomize=not RANDOM_EXAMPLES,
    database=None,
    deadline=None,
    print_blob=True,
    # To make a failing sequence short may take longer than a test is given; all of it is printed either way.
    phases=[Phase.generate, Phase.shrink] if RANDOM_EXAMPLES else [Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)

PROJECTS = ("proj_a", "proj_b")
WORKERS = (("cpu:0",), ("cpu:0", "cpu:1"))
JOBS_MAX = 6
AT_ONCE, MUCH_LATER = Retry(1e-9, 1e-9), Retry(600.0, 600.0)
ACTIONS = ("pause", "resume", "cancel", "cancel_forced", "request_checkpoint")
LOSSES = (ReasonCode.WORKER_LOST, ReasonCode.PREEMPTED, ReasonCode.OOM)
INDEX = st.integers(0, JOBS_MAX - 1)
ASKED = st.sampled_from([(), ("pause",), ("cancel",), ("request_checkpoint", "pause", "resume")])
"""What was asked of a job just before."""


class Yard(RuleBasedStateMachine):
    """Callers, two workers and a reaper, who do anything at any time."""

    def __init__(self, database: Database) -> None:
        super().__init__()
        self.database = database
        self.store, self.attempts = Jobs(database), Attempts(database)
        self.model: dict[str, ModelJob] = {}
        self.zombies: list[tuple[str, str]] = []
        self.seen: dict[str, Job] = {}
        self.happened: dict[str, list[Any]] = {}
        self.workers: dict[str, tuple[str, ...]] = {}
        with database.write() as connection:
            for table in (jobs, workers, projects):
                connection.execute(delete(table))
            at = datetime.now(UTC)
            connection.execute(insert(projects), [{"id": one, "name": one, "created_at": at} for one in PROJECTS])
        for devices in WORKERS:
            worker_id = new_id("wrk")
            Fleet(database).join(worker_id, "box", 1, [{"id": d, "name": d, "memory_bytes": 1} for d in devices], {})
            self.workers[worker_id] = devices

    # Who there is

    def has(self, *statuses: Status) -> bool:
        return any(job.status in statuses for job in self.model.values())

    def running(self) -> list[ModelJob]:
        return [job for job in self.model.values() if job.status is Status.RUNNING]

    def one_running(self, index: int, asked: Sequence[str] = ()) -> tuple[ModelJob, str]:
        found = self.running()
        job = found[index % len(found)]
        for action in asked:
            self.ask_of(job, action)
        assert job.token is not None
        return job, job.token

    def one(self, index: int) -> ModelJob:
        return list(self.model.values())[index % len(self.model)]

    def free(self, worker_id: str) -> list[str]:
        taken = {device for job in self.running() if job.worker == worker_id for device in job.held}
        return [device for device in self.workers[worker_id] if device not in taken]

    def best(self, worker_id: str) -> ModelJob | None:
        """The queued job that a worker should be given."""
        free = len(self.free(worker_id))
        load = {project: sum(job.project == project for job in self.running()) for project in PROJECTS}
        queue = [job for job in self.model.values() if job.status is Status.QUEUED and not job.backing_off]
        fitting = [job for job in queue if job.devices <= free]
        return min(fitting, key=lambda job: (-job.priority, load[job.project], job.id), default=None)

    def ended(self, job: ModelJob, token: str) -> None:
        if job.token != token:
            self.zombies.append((job.id, token))

    # What callers do

    @initialize()
    def begin(self) -> None:
        for number in range(3):
            self.submit(PROJECTS[number % 2], 0, 1, 1 + number % 2)
        self.claim(1)
        self.publish(0, CheckpointKind.RECOVERY, False)

    @precondition(lambda self: len(self.model) < JOBS_MAX)
    @rule(
        project=st.sampled_from(PROJECTS),
        priority=st.integers(-1, 1),
        devices=st.integers(1, 2),
        max_attempts=st.integers(1, 3),
    )
    def submit(self, project: str, priority: int, devices: int, max_attempts: int) -> None:
        new = NewJob({}, ["m.Net"], "auto", devices, 60.0, max_attempts, priority=priority)
        with self.database.write() as connection:
            made = self.store.create(connection, project, new)
        self.model[made.id] = ModelJob(made.id, project, priority, devices, max_attempts)

    @precondition(lambda self: self.model)
    @rule(index=INDEX, action=st.sampled_from(ACTIONS))
    def ask(self, index: int, action: str) -> None:
        self.ask_of(self.one(index), action)

    def ask_of(self, job: ModelJob, action: str) -> None:
        name, options = ("cancel", {"force": True}) if action == "cancel_forced" else (action, {})
        verb: Callable[..., Job] = getattr(self.store, name)
        with pytest.raises(NotFound):
            verb(next(other for other in PROJECTS if other != job.project), job.id, **options)
        before = self.store.get(job.project, job.id)
        self.check_version(before)
        if job.refuses(name):
            with pytest.raises(Conflict) as refused:
                verb(job.project, job.id, **options)
            assert refused.value.extra["status"] == job.status
            return
        changed, answer = job.ask(action), verb(job.project, job.id, **options)
        assert answer == self.store.get(job.project, job.id)
        assert (answer != before) == changed, "what was asked before changes nothing"
        self.check_version(answer)

    @precondition(lambda self: self.model)
    @rule(index=INDEX, priority=st.integers(-1, 1), max_attempts=st.integers(1, 3), is_stale=st.booleans())
    def patch(self, index: int, priority: int, max_attempts: int, is_stale: bool) -> None:
        job = self.one(index)
        version = self.store.get(job.project, job.id).version
        changes = {"priority": priority, "max_attempts": max_attempts}
        if is_stale:
            with pytest.raises(PreconditionFailed):
                self.store.patch(job.project, job.id, version - 1, changes)
            return
        assert self.store.patch(job.project, job.id, version, changes).version == version + 1
        job.priority, job.max_attempts = priority, max_attempts
        job.events.append("updated")

    @precondition(lambda self: self.has(*FINAL))
    @rule()
    def delete(self) -> None:
        for job in list(self.model.values()):
            removed: list[str] = []
            if not job.is_final:
                with pytest.raises(Conflict):
                    self.store.delete(job.project, job.id, removed.append)
                assert removed == []
                continue
            self.store.delete(job.project, job.id, removed.append)
            assert removed == [job.id]
            for forgotten in (self.model, self.seen, self.happened):
                del forgotten[job.id]

    # What workers do

    @precondition(lambda self: self.has(Status.QUEUED))
    @rule(index=st.integers(0, len(WORKERS) - 1))
    def claim(self, index: int) -> None:
        """A worker claims until nothing more fits, and is given what the model would give it."""
        worker_id = list(self.workers)[index]
        while True:
            best, free = self.best(worker_id), self.free(worker_id)
            given = Claims(self.database).claim(worker_id, "box", 60.0, lambda _: True)
            assert (given and given.job.id) == (best and best.id)
            if best is None or given is None:
                return
            assert given.devices == free[: best.devices]
            best.claim(given.token, worker_id, given.devices)

    @precondition(lambda self: self.has(Status.RUNNING))
    @rule(index=INDEX)
    def renew(self, index: int) -> None:
        job, token = self.one_running(index)
        orders = self.attempts.renew(job.id, token)
        assert orders == self.attempts.orders(job.id, token)
        asked = (job.cancel, job.force, job.pause, job.preempt, job.saves)
        assert (orders.cancel, orders.force, orders.pause, orders.preempt, orders.saves) == asked

    @precondition(lambda self: self.has(Status.RUNNING))
    @rule(index=INDEX, phase=st.sampled_from(["training", "validating"]))
    def note(self, index: int, phase: str) -> None:
        job, token = self.one_running(index)
        with self.database.write() as connection:
            self.attempts.note(connection, job.id, token, spool_offset=1, phase=phase)
        self.attempts.tell(job.id, token, "first_step")
        job.events.append("first_step")

    @precondition(lambda self: self.has(Status.RUNNING))
    @rule(index=INDEX, kind=st.sampled_from(list(CheckpointKind)[:3]), is_last=st.booleans())
    def publish(self, index: int, kind: CheckpointKind, is_last: bool) -> None:
        job, token = self.one_running(index)
        new = self.checkpoint(job.id, kind, is_last=is_last)
        Checkpoints(self.database).publish(token, new)
        job.publish(new.id, kind, is_last=is_last)

    @precondition(lambda self: self.has(Status.RUNNING))
    @rule(index=INDEX, saved=st.booleans(), asked=ASKED)
    def stop(self, index: int, saved: bool, asked: Sequence[str]) -> None:
        job, token = self.one_running(index, asked)
        job.stop(saved=saved)
        assert self.attempts.stopped(job.id, token, "stopped", saved=saved) is job.status
        self.ended(job, token)

    @precondition(lambda self: self.has(Status.RUNNING))
    @rule(index=INDEX, status=st.sampled_from(FINAL))
    def finish(self, index: int, status: Status) -> None:
        job, token = self.one_running(index)
        job.finish(status)
        self.attempts.finish(job.id, token, status, {"code": "user_error", "message": "m"})
        self.ended(job, token)

    @precondition(lambda self: self.has(Status.RUNNING))
    @rule(index=INDEX, code=st.sampled_from(LOSSES), retry=st.sampled_from([AT_ONCE, MUCH_LATER]), asked=ASKED)
    def lose(self, index: int, code: ReasonCode, retry: Retry, asked: Sequence[str]) -> None:
        job, token = self.one_running(index, asked)
        job.lose(code, backs_off=retry is MUCH_LATER)
        assert self.attempts.lose(job.id, token, code, "gone", retry) is job.status
        self.ended(job, token)

    @precondition(lambda self: self.has(Status.RUNNING))
    @rule(index=INDEX, retry=st.sampled_from([AT_ONCE, MUCH_LATER]), is_renewed=st.booleans())
    def expire(self, index: int, retry: Retry, is_renewed: bool) -> None:
        job, token = self.one_running(index)
        assert sorted(lease.token for lease in self.attempts.leases()) == sorted(
            one.token for one in self.running() if one.token
        )
        (lease,) = (lease for lease in self.attempts.leases() if lease.token == token)
        if is_renewed:
            self.attempts.renew(job.id, token)
            assert self.attempts.expire(lease, retry) is None
            return
        job.lose(ReasonCode.WORKER_LOST, backs_off=retry is MUCH_LATER and job.spent > 1)
        assert self.attempts.expire(lease, retry) is job.status
        assert self.attempts.expire(lease, retry) is None
        self.ended(job, token)

    @precondition(lambda self: self.has(Status.QUEUED) and self.has(Status.RUNNING))
    @rule(index=st.integers(0, len(WORKERS) - 1))
    def make_room(self, index: int) -> None:
        worker_id = list(self.workers)[index]
        waiting = [job.priority for job in self.model.values() if job.status is Status.QUEUED and not job.backing_off]
        for job_id in Preemption(self.database).make_room(worker_id, 0.0, lambda _: True):
            job = self.model[job_id]
            assert job.worker == worker_id
            assert job.priority < max(waiting)
            assert [job.cancel, job.pause, job.preempt] == [False, False, False]
            job.preempt = True
            job.events.append("preempt_requested")

    @precondition(lambda self: self.zombies)
    @rule(index=st.integers(0, 20), verb=st.integers(0, 8))
    def write_late(self, index: int, verb: int) -> None:
        job_id, token = self.zombies[index % len(self.zombies)]

        def note() -> None:
            with self.database.write() as connection:
                self.attempts.note(connection, job_id, token, [("late", datetime.now(UTC), {})], phase="training")

        verbs: Sequence[Callable[[], object]] = (
            lambda: self.attempts.renew(job_id, token),
            lambda: self.attempts.orders(job_id, token),
            lambda: self.attempts.tell(job_id, token, "late"),
            lambda: self.attempts.start_from(job_id, token, None, 1),
            lambda: self.attempts.finish(job_id, token, Status.SUCCEEDED),
            lambda: self.attempts.stopped(job_id, token, "late", saved=True),
            lambda: self.attempts.lose(job_id, token, ReasonCode.PREEMPTED, "late", AT_ONCE),
            lambda: Checkpoints(self.database).publish(token, self.checkpoint(job_id, CheckpointKind.RECOVERY)),
            note,
        )
        before = everything(self.database)
        with pytest.raises(LeaseLost):
            verbs[verb]()
        assert everything(self.database) == before

    # What is always true

    @invariant()
    def the_database_is_as_the_model_has_it(self) -> None:
        now = everything(self.database)
        rows = {row.id: row for row in now["jobs"]}
        assert set(rows) == set(self.model)
        tries, told = by_job(now["attempts"]), by_job(now["events"])
        held = {(job.worker, device, job.id, job.attempt) for job in self.running() for device in job.held}
        assert {tuple(row) for row in now["device_claims"]} == held
        assert set(tries) | set(told) <= set(rows), "nothing is left of a deleted job"
        for job in self.model.values():
            check_job(job, rows[job.id])
            check_attempts(job, tries.get(job.id, []))
            self.check_version(as_job(rows[job.id], tuple(Attempt(**row._mapping) for row in tries.get(job.id, []))))
            self.check_events(job, told[job.id])
        kinds = {row.id: row.kind for row in now["checkpoints"]}
        for kind, ids in (("stop", "stops"), ("recovery", "recoveries")):
            expected = [one for job in self.model.values() for one in getattr(job, ids)]
            assert sorted(one for one, found in kinds.items() if found == kind) == sorted(expected)

    def check_version(self, now: Job) -> None:
        """Whatever a caller sees change has a higher version, and what has ended stays as it is."""
        before = self.seen.get(now.id)
        self.seen[now.id] = now
        if before is not None:
            assert now.version >= before.version
            assert now.version > before.version or visible(now) == visible(before)
            assert not before.is_final or (now.status, now.attempts_list) == (before.status, before.attempts_list)

    def check_events(self, job: ModelJob, now: list[Any]) -> None:
        """Events are only added, and exactly one of them ends a job."""
        before = self.happened.get(job.id, [])
        self.happened[job.id] = now
        assert now[: len(before)] == before
        assert [event.type for event in now] == job.events
        assert sum(event.type in FINAL for event in now) == int(job.is_final)

    def checkpoint(self, job_id: str, kind: CheckpointKind, *, is_last: bool = False) -> Checkpoint:
        checkpoint_id, at = new_id("ckpt"), datetime.now(UTC)
        name = f"{kind}.{checkpoint_id}"
        return Checkpoint(checkpoint_id, job_id, 1, kind, name, 1, 0, {}, 1, "0", "key", False, at, is_last=is_last)


def test_no_sequence_of_verbs_leads_where_the_model_does_not(database: Database) -> None:
    examples = RANDOM_EXAMPLES or (12 if database.is_sqlite else 10)
    run_state_machine_as_test(lambda: Yard(database), settings=settings(SETTINGS, max_examples=examples))
