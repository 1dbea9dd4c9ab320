"""Faults: what a kind is, whom it hits, and all kinds there are."""

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeVar

from tests.faults.caller import Caller
from tests.faults.schedule import Draw, Planned
from tests.faults.world import World

T = TypeVar("T")

BOTH = ("embedded", "production")


class NotNow(Exception):
    """There is nobody for the fault to hit; the message says why."""


class Ground(Protocol):
    """What a fault works on."""

    world: World
    caller: Caller

    def unended(self) -> Sequence[str]:
        """Ids of the jobs that have not ended, as far as one can tell."""

    def complain(self, violation: str) -> None:
        """Say that something went wrong that no fault explains."""


@dataclass
class Hit:
    """Whom a fault hits: in words, the jobs whose trainers it concerns, and the workers; `state` is the fault's own.

    Made right before it happens: `at` is when, by the machine's monotonic clock. To look for whom takes a while.
    """

    what: str
    jobs: frozenset[str] = frozenset()
    workers: frozenset[str] = frozenset()
    state: dict[str, Any] = field(default_factory=dict)
    at: float = field(default_factory=time.monotonic)


class Fault(ABC):
    """One kind of fault. A new object for each that happens."""

    kind: ClassVar[str]
    draw: ClassVar[Draw]
    backends: ClassVar[tuple[str, ...]] = BOTH
    kills: ClassVar[bool] = False
    """Whether the trainers of the jobs hit are lost with it."""
    costs: ClassVar[bool] = False
    """Whether an attempt of the jobs hit may be lost by it."""
    zombies: ClassVar[bool] = False
    """Whether trainers of the jobs hit may go on after their lease, until it is healed."""

    def __init__(self, planned: Planned) -> None:
        self.planned = planned

    @abstractmethod
    def inject(self, ground: Ground) -> Hit:
        """Do it. Raises `NotNow`."""

    def heal(self, ground: Ground, hit: Hit) -> float | None:
        """Undo it, when its time is over; None: done, else in how many seconds to ask again."""
        return None

    def pick(self, candidates: Sequence[T], what: str) -> T:
        """The candidate that the schedule means. Raises `NotNow` where there is none."""
        if not candidates:
            raise NotNow(f"there is {what}")
        return candidates[int(self.planned.pick * len(candidates))]


def all_kinds() -> Mapping[str, type[Fault]]:
    """Every kind, by name."""
    from tests.faults import absences, disks, kills, requests

    kinds = [kind for module in (kills, absences, disks, requests) for kind in module.KINDS]
    return {kind.kind: kind for kind in kinds}


def kinds_of(backend: str) -> dict[str, type[Fault]]:
    """The kinds that a backend can be hit by."""
    return {name: kind for name, kind in all_kinds().items() if backend in kind.backends}
