"""Seeding by index: what is drawn for an item in a DataLoader's worker follows from (seed, epoch, index) alone."""

import hashlib
import random
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.sharedctypes import RawValue
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Subset, get_worker_info

from workers.trainer.rng import Own, own_generators, seed_own


class IndexSeeds:
    """Has a loader's workers seed all generators before each item. `epoch` may change while workers live."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._epoch = RawValue("q", 0)

    def at_epoch(self, epoch: int) -> None:
        """Items fetched from now on are this epoch's."""
        self._epoch.value = epoch

    def install(self, loader: DataLoader[Any]) -> None:
        """Change what the loader's workers, still to be started, do first."""
        before = loader.worker_init_fn

        def start(worker_id: int) -> None:
            if before is not None:
                before(worker_id)
            info = get_worker_info()
            if info is not None:
                own = own_generators(dataset=info.dataset)
                _wrap(info.dataset, partial(self._apply, own))

        loader.worker_init_fn = start

    def _apply(self, own: Own, index: object) -> None:
        said = f"{self._seed}/{self._epoch.value}/{index!r}".encode()
        seed = int.from_bytes(hashlib.blake2b(said, digest_size=8).digest(), "little")
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        seed_own(seed, own)


def _wrap(dataset: Any, seed: Callable[[object], None]) -> None:
    """Change the class of this worker's copy of a dataset. One that refuses, a list for instance, draws nothing."""
    kind = type(dataset)

    class Seeded(kind):  # type: ignore[misc, valid-type]  # the user's own class, still
        """The user's dataset, which draws anew for every item."""

        def __getitem__(self, index: Any) -> Any:
            seed(index)
            return kind.__getitem__(self, index)

    if hasattr(kind, "__getitems__"):
        # Where a whole batch is fetched in one piece its first index seeds it; a Subset does so for nothing but speed.
        def fetch(self: Any, indices: Sequence[Any]) -> Any:
            if kind is Subset:
                return [self[index] for index in indices]
            seed(indices[0])
            return kind.__getitems__(self, indices)

        Seeded.__getitems__ = fetch
    Seeded.__name__, Seeded.__qualname__ = kind.__name__, kind.__qualname__
    try:
        dataset.__class__ = Seeded
    except TypeError:
        return
