"""Jobs of several machines: claimed whole or not at all, and over on all of them at once."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any

import orjson
import pytest
from sqlalchemy import select, update

from core.assembly import Assembly
from core.attempts import Attempts, Retry
from core.catalog import Catalog, Entry, Kind
from core.claims import Claim, Claims
from core.database import Database
from core.errors import LeaseLost
from core.fleet import Fleet
from core.gangs import Gangs, SeatLease
from core.ids import new_id
from core.job import Job, NewJob
from core.jobs import Jobs
from core.preemption import Preemption
from core.queue import Queue
from core.security import Caller
from core.states import ReasonCode, Seat, Status
from core.tables import device_claims, jobs, members

Submit = Callable[..., Job]
Machine = Callable[..., str]
RETRY = Retry(1e-9, 1e-9)
VERSIONS = {"torch": "2.13.0", "pytorch_lightning": "2.6.6"}


@pytest.fixture
def machine(database: Database) -> Machine:
    """A worker that takes part in jobs of several machines; returns its id."""

    def join(*devices: str, classes: Sequence[str] = ("m.Net",), torch: str = "2.13.0", accepts: bool = True) -> str:
        worker_id, fleet = new_id("wrk"), Fleet(database)
        announced = [{"id": name, "name": "d", "memory_bytes": 1} for name in devices]
        fleet.join(worker_id, f"box-{worker_id[-4:]}", 1, announced, VERSIONS | {"torch": torch})
        catalog = Catalog(tuple(Entry(name, Kind.MODEL, (), {}, "", (), (), False) for name in classes), ())
        fleet.announce(worker_id, catalog.digest, orjson.dumps(catalog.to_json()).decode())
        fleet.beat(worker_id, accepts=accepts)
        return worker_id

    return join


def claim(database: Database, worker_id: str, hold_seconds: float = 0.0, patience_seconds: float = 0.0) -> Claim | None:
    assembly = Assembly(15.0, patience_seconds, hold_seconds)
    return Claims(database, assembly).claim(worker_id, "box", 60.0, lambda paths: set(paths) <= {"m.Net"})


def taken(database: Database) -> dict[tuple[str, str], str]:
    with database.read() as connection:
        rows = connection.execute(select(device_claims)).all()
    return {(row.worker_id, row.device): row.job_id for row in rows}


def test_a_job_of_two_machines_is_given_with_devices_on_both(
    database: Database, submit: Submit, machine: Machine
) -> None:
    job = submit(nodes=2, devices=2)
    first, second = machine("cpu:0", "cpu:1", "cpu:2"), machine("cpu:0", "cpu:1")
    led = claim(database, first)
    assert led is not None
    assert (led.devices, led.called, led.node_rank, led.world_size) == (["cpu:0", "cpu:1"], (second,), 0, 4)
    assert taken(database) == dict.fromkeys(
        [(one, device) for one in (first, second) for device in ("cpu:0", "cpu:1")], job.id
    )
    called = Gangs(database).answer(second)
    assert called is not None
    part, seat = called
    assert (part.token, part.devices, part.node_rank, part.first_rank) == (led.token, ["cpu:0", "cpu:1"], 1, 2)
    assert seat.worker_id == second
    assert Gangs(database).answer(second) is None, "a seat is taken once"
    (attempt,) = led.job.attempts_list
    assert [(one.node_rank, one.state) for one in attempt.members] == [(1, Seat.CALLED)]


def test_no_device_is_taken_while_a_machine_is_missing_and_others_run_meanwhile(
    database: Database, submit: Submit, machine: Machine
) -> None:
    together = submit(nodes=2, priority=5)
    small = submit()
    lone = machine("cpu:0")
    other_kind, other_classes = machine("gpu:0"), machine("cpu:0", classes=["m.Other"])
    other_torch, resting = machine("cpu:0", torch="2.9.0"), machine("cpu:0", accepts=False)
    given = claim(database, lone)
    assert given is not None
    assert given.job.id == small.id
    assert {worker_id for worker_id, _ in taken(database)} == {lone}
    Attempts(database).finish(small.id, given.token, Status.SUCCEEDED)
    for one in (lone, other_kind, other_torch, other_classes, resting):
        assert claim(database, one) is None
    waiting = Queue(database).waiting(Jobs(database).get(together.project_id, together.id), 15.0)
    assert waiting.reason == "waiting for 2 machines with 1 device(s) of kind 'auto' free at once"


def test_a_job_that_needs_more_machines_than_there_are_says_so(
    database: Database, submit: Submit, machine: Machine
) -> None:
    job = submit(nodes=3, devices=2)
    machine("cpu:0", "cpu:1")
    machine("cpu:0")
    reason = Queue(database).waiting(job, 15.0).reason
    assert reason == "it needs 3 machines with 2 device(s) of kind 'auto' each: 1 of those that are up have as many"


def test_concurrent_claimers_take_whole_gangs_and_never_a_device_twice(
    database: Database, submit: Submit, machine: Machine
) -> None:
    gangs = {submit(nodes=nodes, devices=devices).id for nodes, devices in [(2, 1), (3, 1), (2, 2), (2, 1)] * 2}
    small = {submit().id for _ in range(8)}
    # At most one of four machines with 20 devices can be full of these 30, so that no gang of three is shut out.
    boxes = [machine(*[f"cpu:{slot}" for slot in range(20)]) for _ in range(4)]
    start = threading.Barrier(len(boxes) * 2)

    def take_all(box: str) -> list[Claim]:
        start.wait()
        found = []
        while given := claim(database, box):
            found.append(given)
        return found

    with ThreadPoolExecutor(len(boxes) * 2) as pool:
        claims = [one for found in pool.map(take_all, boxes * 2) for one in found]
    while found := [given for box in boxes if (given := claim(database, box))]:
        claims += found  # what was passed over, for another claimer held its machine
    assert sorted(one.job.id for one in claims) == sorted(gangs | small)
    with database.read() as connection:
        rows = connection.execute(select(device_claims)).all()
        seats = connection.execute(select(members)).all()
    for one in claims:
        held = [row for row in rows if row.job_id == one.job.id]
        assert len({row.worker_id for row in held}) == one.job.nodes
        assert len(held) == one.job.nodes * one.job.devices
        assert sum(seat.job_id == one.job.id for seat in seats) == one.job.nodes - 1


def test_devices_are_kept_free_for_a_gang_that_has_waited_for_long(
    database: Database, submit: Submit, machine: Machine
) -> None:
    first, second, third = (machine("cpu:0", "cpu:1") for _ in range(3))
    running = {box: [submit(), submit()] for box in (first, second)}
    tokens = {box: [claim(database, box) for _ in held] for box, held in running.items()}
    gang = submit(nodes=2, devices=2)
    behind, ahead = submit(), submit(priority=1)

    def free(box: str) -> None:
        given = tokens[box].pop()
        assert given is not None
        Attempts(database).finish(given.job.id, given.token, Status.SUCCEEDED)

    free(first)
    assert claim(database, third, hold_seconds=60.0).job.id == ahead.id, "what is more important is not held up"  # type: ignore[union-attr]
    assert claim(database, first, hold_seconds=60.0) is None, "the first and the third are kept for the gang"
    assert not Claims(database, Assembly(15.0, 0.0, 60.0)).claimable(first, 0.0, lambda _: True)
    assert claim(database, first, hold_seconds=60.0, patience_seconds=600.0).job.id == behind.id, "it is patient yet"  # type: ignore[union-attr]
    free(first)
    later = submit()
    with database.write() as connection:
        long_ago = database.now(connection) - timedelta(seconds=90)
        connection.execute(update(jobs).where(jobs.c.id == gang.id).values(available_at=long_ago))
    assert claim(database, first, hold_seconds=60.0).job.id == later.id, "a hold ends, for a while"  # type: ignore[union-attr]


@pytest.mark.parametrize("joins", [True, False])
def test_a_lease_that_a_member_does_not_renew_ends_the_attempt_on_all_machines(
    database: Database, caller: Caller, submit: Submit, machine: Machine, joins: bool
) -> None:
    attempts, gangs = Attempts(database), Gangs(database)
    first, second = machine("cpu:0"), machine("cpu:0")
    job = submit(nodes=2)
    led = claim(database, first)
    assert led is not None
    ((seat, _),) = gangs._called(second)
    if joins:
        gangs.answer(second)
        assert SeatLease(database, seat).renew(job.id, led.token).members[0].state is Seat.JOINED
    leases = {lease.node_rank: lease for lease in attempts.leases()}
    assert {rank: lease.joined for rank, lease in leases.items()} == {0: True, 1: joins}
    attempts.renew(job.id, led.token)
    assert attempts.expire(replace(leases[1], renewals=leases[1].renewals + 7), RETRY) is None, "it was renewed"
    assert attempts.expire(leases[1], RETRY) is Status.QUEUED
    assert attempts.expire(leases[1], RETRY) is None
    assert taken(database) == {}
    assert attempts.leases() == []
    after = Jobs(database).get(caller.project_id, job.id)
    assert after.attempts_spent == int(joins), "one that never answered costs nothing"
    assert [one.state for one in after.attempts_list[0].members] == [Seat.ENDED]
    assert gangs.answer(second) is None
    submit(nodes=2)
    attempts.shun(leases[1])
    assert claim(database, first) is None, "who went silent is not called again"
    Fleet(database).beat(second)
    assert claim(database, first) is not None
    for late in (
        lambda: SeatLease(database, seat).renew(job.id, led.token),
        lambda: SeatLease(database, seat).orders(job.id, led.token),
        lambda: gangs.leave(seat, led.token),
        lambda: gangs.end(seat, led.token, {"status": "succeeded"}),
        lambda: gangs.meet(job.id, led.token, "127.0.0.1:1"),
        lambda: gangs.dismiss(job.id, led.token),
    ):
        with pytest.raises(LeaseLost):
            late()


def test_the_leader_hears_that_a_member_leaves_or_ended_and_members_what_the_leader_says(
    database: Database, submit: Submit, machine: Machine
) -> None:
    attempts, gangs = Attempts(database), Gangs(database)
    first, second = machine("cpu:0"), machine("cpu:0")
    job = submit(nodes=2)
    led = claim(database, first)
    assert led is not None
    _, seat = gangs.answer(second)  # type: ignore[misc]
    asked = attempts.orders(job.id, led.token)
    assert (asked.stop, asked.rendezvous, asked.dismissed) == (False, None, False)
    gangs.meet(job.id, led.token, "10.0.0.1:4711")
    assert SeatLease(database, seat).orders(job.id, led.token).rendezvous == "10.0.0.1:4711"
    gangs.leave(seat, led.token)
    assert attempts.orders(job.id, led.token).stop
    gangs.end(seat, led.token, {"status": "stopped"})
    gangs.end(seat, led.token, {"status": "failed"})
    (member,) = attempts.orders(job.id, led.token).members
    assert (member.state, member.end) == (Seat.ENDED, {"status": "stopped"}), "the first word counts"
    gangs.dismiss(job.id, led.token)
    assert attempts.orders(job.id, led.token).dismissed


def test_a_call_that_is_declined_costs_nothing_and_is_not_answered_any_more(
    database: Database, submit: Submit, machine: Machine
) -> None:
    gangs = Gangs(database)
    first, second = machine("cpu:0"), machine("cpu:0")
    job = submit(nodes=2)
    led = claim(database, first)
    assert led is not None
    assert gangs.is_called(second)
    assert gangs.decline(second, "it stops") == [job.id]
    assert not gangs.is_called(second)
    (member,) = Attempts(database).orders(job.id, led.token).members
    assert member.end is not None
    assert (member.end["status"], member.end["costs"]) == ("lost", False)


def test_a_lost_attempt_of_a_gang_is_claimed_again_whole(database: Database, submit: Submit, machine: Machine) -> None:
    first, second = machine("cpu:0"), machine("cpu:0")
    job = submit(nodes=2)
    led = claim(database, first)
    assert led is not None
    Attempts(database).lose(job.id, led.token, ReasonCode.WORKER_LOST, "gone", RETRY)
    assert Claims(database).claimable(second, 60.0, lambda _: True), "nobody rings when a machine becomes free"
    again = claim(database, second)
    assert again is not None
    assert (again.attempt, again.called) == (2, (first,))
    assert [one.attempt for one in again.job.attempts_list[1].members] == [2]


def by_worker(database: Database) -> dict[str, Any]:
    return {worker.id: worker.busy for worker in Fleet(database).page(15.0)}


def test_the_fleet_shows_the_devices_of_members_as_busy(database: Database, submit: Submit, machine: Machine) -> None:
    first, second = machine("cpu:0"), machine("cpu:0", "cpu:1")
    job = submit(nodes=2)
    claim(database, first)
    assert by_worker(database) == {first: {"cpu:0": job.id}, second: {"cpu:0": job.id}}


def test_room_is_made_for_a_gang_on_all_its_machines_or_on_none(
    database: Database, submit: Submit, machine: Machine
) -> None:
    first, second = machine("cpu:0"), machine("cpu:0")
    low = [submit(), submit()]
    held = {job.id: claim(database, box) for job, box in zip(low, (first, second), strict=True)}
    equal = submit(nodes=2, priority=0)
    three = submit(nodes=3, priority=9)
    preemption = Preemption(database, Assembly(15.0, 0.0, 3600.0))
    assert preemption.make_room(first, 0.0, lambda _: True) == []
    urgent = submit(nodes=2, priority=5)
    assert Preemption(database, Assembly(15.0, 0.0, 0.0)).make_room(first, 0.0, lambda _: True) == [], (
        "what becomes free would go to others, where nothing is kept for it"
    )
    assert sorted(preemption.make_room(first, 0.0, lambda _: True)) == sorted(held)
    assert preemption.make_room(second, 0.0, lambda _: True) == [], "room is coming"
    for job_id, given in held.items():
        assert given is not None
        assert Attempts(database).orders(job_id, given.token).preempt
        Attempts(database).stopped(job_id, given.token, "stopped", saved=True)
    led = claim(database, second)
    assert led is not None
    assert (led.job.id, led.called) == (urgent.id, (first,))
    lone = submit(priority=7)
    assert preemption.make_room(first, 0.0, lambda _: True) == [urgent.id], "a gang gives way as a whole"
    Attempts(database).stopped(urgent.id, led.token, "stopped", saved=True)
    assert claim(database, first).job.id == lone.id  # type: ignore[union-attr]
    assert {equal.id, three.id, urgent.id} <= {
        job.id for job in Jobs(database).page(lone.project_id, statuses=["queued"])
    }


def test_any_number_of_gangs_that_cannot_be_had_hide_no_job_of_one_machine(
    database: Database, caller: Caller, submit: Submit, machine: Machine
) -> None:
    worker_id = machine("cpu:0")
    new = NewJob({}, ["m.Net"], "auto", 1, max_seconds=60.0, max_attempts=3, priority=9)
    with database.write() as connection:
        for nodes in range(2, 302):  # more than one claim looks at
            Jobs(database).create(connection, caller.project_id, replace(new, nodes=nodes))
    alone = submit()
    assert Claims(database).claimable(worker_id, 0.0, lambda _: True)
    led = claim(database, worker_id)
    assert led is not None
    assert led.job.id == alone.id


def test_of_two_threads_that_hear_a_call_one_takes_the_seat(
    database: Database, submit: Submit, machine: Machine
) -> None:
    gangs = Gangs(database)
    first, second = machine("cpu:0"), machine("cpu:0")
    for _ in range(3):
        job = submit(nodes=2)
        led = claim(database, first)
        assert led is not None
        heard = gangs._called(second)
        gangs._called = lambda _, heard=heard: heard  # type: ignore[method-assign,misc]  # both have looked by now
        assert [gangs.answer(second) is not None for _ in range(2)] == [True, False]
        Attempts(database).finish(job.id, led.token, Status.SUCCEEDED)
        assert gangs.answer(second) is None, "nor once it is over"
        gangs = Gangs(database)
