"""Where a run is in its training data, and how a resumed run comes to the same place.

A loader keeps its own class as a base, its order and its draws. What is remembered is the state of the generators when
an iterator was made and when it was first asked: a resumed run makes the same iterator again and goes to the place.
"""

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch.utils.data import DataLoader, IterableDataset
from torch.utils.data.dataloader import _SingleProcessDataLoaderIter

from workers.trainer.rng import Own, own_generators, put_back, snapshot
from workers.trainer.seeding import IndexSeeds

State = dict[str, Any]
ORDERS_KEPT = 4096
"""How many batches a loader's workers may be ahead, where its order is checked."""


def why_not_exact(loader: Any, *, seeded_by_index: bool) -> str | None:
    """Why nobody can go to a place within an epoch of this loader's; None: one can."""
    if not isinstance(loader, DataLoader):
        return f"the training data come from a {type(loader).__name__}, which has no place to go back to"
    if isinstance(loader.dataset, IterableDataset):
        if loader.num_workers == 0 and _has_state(loader.dataset):
            return None
        return "the training data are an IterableDataset, which has no place to go back to"
    if _has_state(loader):
        return f"the training data come from a {type(loader).__name__}, which keeps its place itself"
    if loader.num_workers > 0 and not getattr(loader, "in_order", True):
        return "the DataLoader hands out batches in the order in which its workers finish"
    if loader.persistent_workers and not seeded_by_index:
        return "persistent DataLoader workers carry their random numbers from epoch to epoch"
    return None


def loader_parts(loader: DataLoader[Any]) -> list[Any]:
    """Where a loader may keep generators of its own."""
    return [loader.generator, loader.sampler, loader.batch_sampler, loader.dataset, loader.collate_fn]


class Place:
    """Where one DataLoader is."""

    def __init__(self, loader: DataLoader[Any], name: str, seeds: IndexSeeds | None) -> None:
        self.waiting = False
        """The loader is asked before it is known where to begin: it has nothing yet."""
        self._loader = loader
        self._dataset: Any = loader.dataset
        self._streams = isinstance(loader.dataset, IterableDataset)
        self._seeds = seeds if not self._streams and loader.num_workers > 0 else None
        self._own: Own = own_generators(**{name: loader_parts(loader)})
        self._goal: State | None = None
        self._over = False
        self._at_iter: State | None = None
        self._at_first: State | None = None
        self._seen = 0
        self._iterations = 0
        self._to_skip = 0
        self._ahead: list[Any] = []
        self._checks = not _repeats(loader)
        self._order: _Order | None = None
        self.differs = False
        """The order of the data was not the same when it was gone through again."""
        self.seconds = 0.0
        """How long it took to come to the place."""
        if self._seeds is not None:
            self._seeds.install(loader)
        _watch(loader, self)

    @property
    def own(self) -> Own:
        """The generators that the loader keeps itself."""
        return self._own

    def state(self, fetched: Sequence[Any], *, from_start: bool) -> State:
        """The place, or that at which its iterator was made.

        `fetched` are batches that the loader has handed out and the run has not trained on.
        """
        state = {"at_iter": self._at_iter, "iterations": self._iterations}
        if from_start:
            return state | {"at_first": None, "seen": 0, "ahead": [], "dataset": None, "order": None}
        return state | {
            "at_first": self._at_first,
            "seen": self._seen,
            "ahead": list(fetched),
            "dataset": self._dataset.state_dict() if self._streams else None,
            "order": self._order.after(self._seen) if self._order is not None else None,
        }

    def go_to(self, state: State, *, over: bool) -> None:
        """Have the next iterator begin there; `over`: nothing more will be asked of it."""
        self._goal = state
        self._over = over and not self._loader.persistent_workers
        self.waiting = False

    def iterate(self, make: Callable[[], Iterator[Any]]) -> Iterator[Any]:
        """What the loader's `__iter__` gives."""
        goal, self._goal = self._goal, None
        if self.waiting:
            return iter(())
        if goal is None:
            self._at_iter, self._at_first, self._seen = snapshot(self._own), None, 0
            self._iterations += 1
            return _Counted(self, make())
        self._at_iter, self._at_first = goal["at_iter"], goal["at_first"]
        self._seen, self._iterations, self._ahead = goal["seen"], goal["iterations"], goal["ahead"]
        started = time.monotonic()
        inner = iter(()) if self._over else self._made_again(goal, make)
        self.seconds = time.monotonic() - started
        return _Counted(self, inner)

    def _made_again(self, goal: State, make: Callable[[], Iterator[Any]]) -> Iterator[Any]:
        if goal["dataset"] is not None:
            self._dataset.load_state_dict(goal["dataset"])
            return make()
        put_back(goal["at_iter"], self._own)
        if self._loader.persistent_workers and goal["iterations"] > 1:
            make()  # the workers start; what that draws was drawn in the first epoch
            put_back(goal["at_iter"], self._own)
        in_workers = self._loader.num_workers > 0
        to_skip = self._to_skip = goal["seen"] if in_workers and self._seeds is not None else 0
        inner = make()
        if goal["at_first"] is not None and not in_workers:
            put_back(goal["at_first"], self._own)
        if not in_workers and type(inner) is _SingleProcessDataLoaderIter:
            for _ in range(goal["seen"]):  # the order alone: what fetching drew is in the generators at the place
                next(inner._sampler_iter)
            inner._num_yielded = goal["seen"]
        elif not to_skip:  # workers have generators of their own: they draw again what they drew
            for _ in range(goal["seen"]):
                next(inner)
        self.differs = (
            goal["order"] is not None and self._order is not None and self._order.after(goal["seen"]) != goal["order"]
        )
        return inner

    def fetch(self, inner: Iterator[Any]) -> Any:
        """The next batch."""
        if self._ahead:
            return self._ahead.pop(0)
        if self._at_first is None:
            self._at_first = snapshot(self._own)
        batch = next(inner)
        self._seen += 1
        return batch

    def sampler(self, sampler: Any) -> Any:
        """What the loader draws its order from: from where it is to begin, and checked where it may not repeat."""
        return _From(sampler, self) if self._checks or self._seeds is not None else sampler

    def indices(self, sampler: Any) -> Iterator[Any]:
        """The order of one epoch."""
        skipped, self._to_skip = self._to_skip, 0
        order = self._order = _Order() if self._checks else None
        for count, index in enumerate(sampler):
            if order is not None:
                order.add(index)
            if count >= skipped:
                yield index


class _Counted:
    """An iterator over a training loader that knows where it is."""

    def __init__(self, place: Place, inner: Iterator[Any]) -> None:
        self._place = place
        self._inner = inner

    def __iter__(self) -> "_Counted":
        return self

    def __next__(self) -> Any:
        return self._place.fetch(self._inner)


class _From:
    """A sampler that begins where the loader is to begin."""

    def __init__(self, sampler: Any, place: Place) -> None:
        self._sampler = sampler
        self._place = place

    def __iter__(self) -> Iterator[Any]:
        return self._place.indices(self._sampler)

    def __len__(self) -> int:
        return len(self._sampler)


class _Order:
    """A checksum of the indices so far, after each of the last batches: workers run ahead of what is handed out."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=8)
        self._count = 0
        self._after: deque[tuple[int, str]] = deque([(0, "")], maxlen=ORDERS_KEPT)

    def add(self, index: Any) -> None:
        """One batch more."""
        self._hash.update(repr(index).encode())
        self._count += 1
        self._after.append((self._count, self._hash.hexdigest()))

    def after(self, count: int) -> str | None:
        """The checksum after so many batches."""
        return dict(self._after).get(count)


def _watch(loader: Any, place: Place) -> None:
    kind = type(loader)

    class Watched(kind):  # type: ignore[misc, valid-type]  # the user's own class, still
        """The user's loader, whose iterators know where they are."""

        def __iter__(self) -> Iterator[Any]:
            return place.iterate(lambda: kind.__iter__(self))

        @property
        def _index_sampler(self) -> Any:
            return place.sampler(super()._index_sampler)

    Watched.__name__, Watched.__qualname__ = kind.__name__, kind.__qualname__
    loader.__class__ = Watched


def _repeats(loader: DataLoader[Any]) -> bool:
    """Whether the order is torch's own, which the generators alone decide."""
    samplers = (loader.sampler, loader.batch_sampler)
    known = ("torch.", "pytorch_lightning.", "lightning_fabric.")
    return all(one is None or type(one).__module__.startswith(known) for one in samplers)


def _has_state(thing: Any) -> bool:
    return hasattr(thing, "state_dict") and hasattr(thing, "load_state_dict")
