"""A short seed of the fault suite and its scripted outage on each backend; `make faults SEEDS=50` is the long run."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import pytest

from tests.faults.faults import BOTH, kinds_of
from tests.faults.outage import endured
from tests.faults.report import table
from tests.faults.schedule import SHORT
from tests.faults.trial import learn, try_seed
from tests.faults.world import World

OnEach = Callable[[Callable[[World], Any]], list[Any]]

SEED = 1
"""Faults of several kinds on either backend, none of which is waited for."""
OUTAGE_SECONDS = 7.0
"""More than two leases, at the pace of tests; at the service's own it is `python -m tests.faults --outage 30`."""
SECONDS = 300.0
"""Ten times what a test takes on a machine that does nothing else."""

pytestmark = pytest.mark.timeout(SECONDS)


@pytest.fixture(scope="module")
def on_each(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnEach]:
    """Does something to a stack on each backend, side by side: it is waiting for the most part."""
    folder = tmp_path_factory.mktemp("faults")
    opened: list[World] = []

    def start(backend: str) -> World:
        opened.append(World(folder / backend, backend))
        return opened[-1]

    # A thread must outlive what it starts, and does.
    with ThreadPoolExecutor(len(BOTH)) as pool:
        try:
            worlds = [pool.submit(start, backend).result() for backend in BOTH]  # to start is work for all cores
            yield lambda action: _done([pool.submit(action, world) for world in worlds])
        finally:
            _done([pool.submit(world.close) for world in opened])


def _done(futures: Sequence[Future[Any]]) -> list[Any]:
    """What all of them came to. Raises what one did, once the others are done too."""
    wait(futures)
    return [future.result() for future in futures]


def test_nothing_is_lost_and_nothing_doubled_when_parts_are_killed_and_go_away(on_each: OnEach) -> None:
    verdicts = on_each(lambda world: try_seed(world, SEED, kinds_of(world.backend), SHORT, learn(world, SHORT)))
    assert all(one.injected for one in verdicts), "something was done to each"
    assert "0 lost, 0 doubled, 0 unequal, 0 runs with any violation" in table(verdicts)


def test_a_job_outlives_a_long_outage_of_broker_and_database_on_its_first_attempt(on_each: OnEach) -> None:
    for one in on_each(lambda world: endured(world, OUTAGE_SECONDS)):
        assert not one.verdict.violations, str(one)
