"""`python -m tests.faults`: breaks real stacks by seeded schedules, and says whether anything was lost."""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from core.log import configure
from core.settings import Settings
from tests.faults.faults import BOTH, Fault, all_kinds, kinds_of
from tests.faults.outage import PRODUCTION_PACE, endure
from tests.faults.remains import unsettled
from tests.faults.report import Verdict, table
from tests.faults.schedule import LONG, SHORT, Size
from tests.faults.trial import learn, try_seed
from tests.faults.undisturbed import Result
from tests.faults.world import World

RUNS_PER_STACK = 10
"""A stack is started anew after so many runs, and after each that failed."""
SETTLED_SECONDS = 60.0
LOOK_SECONDS = 0.2


def main() -> int:
    """Run the seeds asked for; 0 if every invariant held in every run."""
    arguments = _arguments()
    for name in [name for name in os.environ if name.startswith("LIGHTYARD_")]:
        del os.environ[name]  # a developer's own settings decide nothing here
    seeds = arguments.seed or range(arguments.first, arguments.first + arguments.seeds)
    size = SHORT if arguments.short else LONG
    folder = Path(tempfile.mkdtemp(prefix="lightyard-faults-"))
    configure(Settings(home=folder, log_level="warning"))
    verdicts: list[Verdict] = []
    known: dict[str, Result] = {}
    backends = BOTH if arguments.backend == "both" else (arguments.backend,)
    if arguments.outage:
        pace = {} if arguments.short else PRODUCTION_PACE
        for backend in backends:
            endured = endure(folder / backend, backend, arguments.outage, pace)
            verdicts.append(endured.verdict)
            print(endured, flush=True)
        return _end(folder, verdicts)
    for backend in backends:
        kinds = {
            name: kind
            for name, kind in kinds_of(backend).items()
            if name not in arguments.without and (not arguments.kinds or name in arguments.kinds)
        }
        left = list(seeds)
        while left:
            done = on_one_stack(folder, backend, left[:RUNS_PER_STACK], kinds, size, known)
            verdicts += done
            left = left[len(done) :]
    print(table(verdicts), flush=True)
    return _end(folder, verdicts)


def on_one_stack(
    folder: Path,
    backend: str,
    seeds: Sequence[int],
    kinds: Mapping[str, type[Fault]],
    size: Size,
    known: dict[str, Result],
) -> list[Verdict]:
    """Run seeds on one stack, up to the first that fails. `known` are the undisturbed results, learnt when empty."""
    verdicts: list[Verdict] = []
    here = folder / f"{backend}-{seeds[0]}"
    with World(here, backend) as world:
        if not known:
            known.update(learn(world, size))
        for seed in seeds:
            verdicts.append(try_seed(world, seed, kinds, size, known))
            if verdicts[-1].violations:
                return verdicts
        if size is LONG and (left := left_by_restart(world)):
            verdicts[-1].violations["run_directories_settled"] = left
            print(verdicts[-1], *left, f"logs: {here / 'logs'}", sep="\n  ", flush=True)
            return verdicts
    shutil.rmtree(here)
    return verdicts


def left_by_restart(world: World) -> list[str]:
    """What workers that start anew leave unsettled of the run directories before them, in words."""
    told = []
    for worker in world.workers:
        if code := world.stack.terminate(worker):
            told.append(f"{worker} ended with {code} after SIGTERM")
        world.start(worker)
    deadline = time.monotonic() + SETTLED_SECONDS
    while (left := unsettled(world)) and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
    return told + [f"{path} is not settled" for path in left]


def _end(folder: Path, verdicts: Sequence[Verdict]) -> int:
    if any(one.violations for one in verdicts):
        print(f"what failed runs left lies in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    kinds = sorted(all_kinds())
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="run seeds 0 to N-1")
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="begin with this seed instead of 0")
    parser.add_argument("--seed", type=int, action="append", help="run this one; may be given several times")
    parser.add_argument("--backend", choices=[*BOTH, "both"], default="both")
    parser.add_argument("--short", action="store_true", help="short jobs and few faults, none that costs seconds")
    parser.add_argument(
        "--outage",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="instead of seeds: one long outage of broker and database, at the service's own pace (or --short)",
    )
    parser.add_argument("--kinds", type=_names, default=(), help=f"only these, with commas: {', '.join(kinds)}")
    parser.add_argument("--without", type=_names, default=(), help="all but these, with commas")
    arguments = parser.parse_args()
    for name in (*arguments.kinds, *arguments.without):
        if name not in kinds:
            parser.error(f"there is no kind {name!r}; the kinds are {', '.join(kinds)}")
    return arguments


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


if __name__ == "__main__":
    sys.exit(main())
