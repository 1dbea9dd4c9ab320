"""What is to happen in one run: a pure function of the seed, the backend and the kinds that may be drawn."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MODELS = ("dropping", "adversaries", "accumulating")


@dataclass(frozen=True, slots=True)
class Draw:
    """How often a kind of fault is drawn, relative to others, and for how many seconds one lasts.

    `heavy` ones cost a start of a worker; a run has at most `HEAVY_MAX` of them.
    """

    weight: float
    seconds: tuple[float, float] = (0.0, 0.0)
    heavy: bool = False


@dataclass(frozen=True, slots=True)
class Planned:
    """A fault to come: `at` in seconds after the run's start, healed `seconds` later; `pick` in [0, 1) chooses whom.

    Whom it really hits follows from who is there by then.
    """

    at: float
    kind: str
    pick: float
    seconds: float

    def __str__(self) -> str:
        return f"{self.at:5.2f} s {self.kind} (pick {self.pick:.3f}, for {self.seconds:.2f} s)"


@dataclass(frozen=True, slots=True)
class Submission:
    """A job to submit: `at` in seconds after the run's start."""

    at: float
    model: str


@dataclass(frozen=True, slots=True)
class Size:
    """How long a run's jobs and its schedule are."""

    batches: int
    step_seconds: float
    jobs: tuple[int, int]
    faults: tuple[int, int]
    window_seconds: float
    heavy_max: int


LONG = Size(batches=40, step_seconds=0.03, jobs=(3, 4), faults=(4, 7), window_seconds=8.0, heavy_max=2)
SHORT = Size(batches=15, step_seconds=0.03, jobs=(3, 3), faults=(3, 4), window_seconds=2.5, heavy_max=0)


@dataclass(frozen=True, slots=True)
class Schedule:
    """All that one run does to its stack."""

    seed: int
    submissions: Sequence[Submission]
    faults: Sequence[Planned]

    def __str__(self) -> str:
        lines = [f"{one.at:5.2f} s submit {one.model}" for one in self.submissions]
        return "\n".join(sorted([*lines, *map(str, self.faults)]))


def plan(seed: int, backend: str, draws: Mapping[str, Draw], size: Size) -> Schedule:
    """The schedule of a seed. The same arguments give the same schedule, on every machine."""
    chance = random.Random(f"{seed} {backend}")
    submissions = [
        Submission(at=0.0 if number < len(MODELS) else chance.uniform(0.0, size.window_seconds / 2), model=model)
        for number, model in enumerate(_models(chance, chance.randint(*size.jobs)))
    ]
    faults: list[Planned] = []
    heavy = 0
    drawn: Counter[str] = Counter()
    for _ in range(chance.randint(*size.faults)):
        # What this run has had already is drawn more rarely, what is heavy no more than it may.
        open_to = {
            kind: draw.weight / (1 + 2 * drawn[kind])
            for kind, draw in draws.items()
            if not (draw.heavy and heavy >= size.heavy_max)
        }
        (kind,) = chance.choices(list(open_to), list(open_to.values()))
        drawn[kind] += 1
        heavy += draws[kind].heavy
        at = chance.uniform(0.3, size.window_seconds)
        faults.append(Planned(at, kind, chance.random(), chance.uniform(*draws[kind].seconds)))
    return Schedule(seed, submissions, sorted(faults, key=lambda fault: fault.at))


def _models(chance: random.Random, count: int) -> list[str]:
    """Each model once, then any."""
    models = list(MODELS)
    chance.shuffle(models)
    return [*models, *chance.choices(MODELS, k=max(0, count - len(models)))][:count]
