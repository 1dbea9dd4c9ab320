"""One seed on a stack that runs, and the verdict on it."""

import time
from collections.abc import Mapping

from tests.faults.caller import Caller
from tests.faults.faults import Fault
from tests.faults.report import Verdict, failure, judge
from tests.faults.run import Run
from tests.faults.schedule import Size, plan
from tests.faults.undisturbed import Result, undisturbed
from tests.faults.world import World


def learn(world: World, size: Size) -> dict[str, Result]:
    """What each model comes to when nothing disturbs it."""
    caller = Caller(world.stack.address, world.stack.key)
    known = undisturbed(caller, size)
    caller.close()
    return known


def try_seed(
    world: World, seed: int, kinds: Mapping[str, type[Fault]], size: Size, known: Mapping[str, Result]
) -> Verdict:
    """Do what a seed draws of the kinds; what it showed is printed, in full where an invariant was broken."""
    schedule = plan(seed, world.backend, {name: kind.draw for name, kind in kinds.items()}, size)
    run, began = Run(world, schedule, kinds, size, known), time.monotonic()
    try:
        verdict = judge(run.to_the_end(), world.backend, time.monotonic() - began)
    except AssertionError as error:  # a wait came to its deadline
        verdict = Verdict(seed, world.backend, time.monotonic() - began, {"came_to_its_end": [str(error)]})
    finally:
        run.caller.close()
    print(verdict, flush=True)
    if verdict.violations:
        print(failure(verdict, run.evidence, world.folder), flush=True)
    return verdict
