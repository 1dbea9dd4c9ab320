"""A short seed of the fault suite and its scripted outage on each backend; `make faults SEEDS=50` is the long run."""

from collections.abc import Iterator

import pytest

from tests.faults.faults import BOTH, kinds_of
from tests.faults.outage import endured
from tests.faults.report import table
from tests.faults.schedule import SHORT
from tests.faults.trial import learn, try_seed
from tests.faults.world import World

SEED = 1
"""Faults of several kinds on either backend, none of which is waited for."""
OUTAGE_SECONDS = 7.0
"""More than two leases, at the pace of tests; at the service's own it is `python -m tests.faults --outage 30`."""
SECONDS = 300.0
"""Ten times what a test takes on a machine that does nothing else."""

pytestmark = pytest.mark.timeout(SECONDS)


@pytest.fixture(scope="module", params=BOTH)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One stack for both tests, on each backend in turn: two that train at once would starve each other's leases."""
    with World(tmp_path_factory.mktemp("faults") / request.param, request.param) as running:
        yield running


def test_nothing_is_lost_and_nothing_doubled_when_parts_are_killed_and_go_away(world: World) -> None:
    verdict = try_seed(world, SEED, kinds_of(world.backend), SHORT, learn(world, SHORT))
    assert verdict.injected, "something was done to it"
    assert "0 lost, 0 doubled, 0 unequal, 0 runs with any violation" in table([verdict])


def test_a_job_outlives_a_long_outage_of_broker_and_database_on_its_first_attempt(world: World) -> None:
    found = endured(world, OUTAGE_SECONDS)
    assert not found.verdict.violations, str(found)
