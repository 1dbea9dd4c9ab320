"""Reads that requests which come at once share: one look into the database for all of them, in one thread."""

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Generic, TypeVar

import anyio
from anyio import CapacityLimiter

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

KEYS_MAX = 500
"""Most things that one look is for: those who wait for it wait no longer than for so many."""


class _Batch(Generic[K, V]):
    """One look: what is asked for, and what was found, or went wrong, once it is done."""

    def __init__(self) -> None:
        self.keys: dict[K, None] = {}
        self.done = asyncio.Event()
        self.found: Mapping[K, V] = {}
        self.error: BaseException | None = None


class Batched(Generic[K, V]):
    """A look that finds many things, asked for one thing at a time.

    Whoever asks is answered by a look that began afterwards, so by nothing older than what was committed then. Those
    who ask while `at_once` looks are under way share the next one; so the more ask, the less each of them costs.
    """

    def __init__(
        self, look: Callable[[Sequence[K]], Mapping[K, V]], *, keys_max: int = KEYS_MAX, at_once: int = 1
    ) -> None:
        self._look = look
        self._keys_max = keys_max
        self._at_once = at_once
        self._gathering: _Batch[K, V] | None = None
        self._batches: deque[_Batch[K, V]] = deque()
        self._looking: set[asyncio.Task[None] | None] = set()

    async def get(self, key: K) -> V | None:
        """What a look from now on finds; None: nothing. Raises what the look raises."""
        batch = self._gathering
        if batch is None or (len(batch.keys) >= self._keys_max and key not in batch.keys):
            batch = self._gathering = _Batch()
            self._batches.append(batch)
            if len(self._looking) < self._at_once:
                self._looking.add(asyncio.create_task(self._work()))
        batch.keys[key] = None
        await batch.done.wait()
        if batch.error is not None:
            raise batch.error.with_traceback(None)  # one error for many: each would add its own traceback
        return batch.found.get(key)

    async def _work(self) -> None:
        limiter = CapacityLimiter(1)  # not of the threads that requests wait for
        try:
            await asyncio.sleep(0)  # whoever has come by now joins
            while self._batches:
                await self._look_for(self._batches.popleft(), limiter)
        finally:  # at once, not when the task is done: who asks in between would wait for nobody
            self._looking.discard(asyncio.current_task())

    async def _look_for(self, batch: _Batch[K, V], limiter: CapacityLimiter) -> None:
        if batch is self._gathering:
            self._gathering = None
        try:
            batch.found = await anyio.to_thread.run_sync(self._look, list(batch.keys), limiter=limiter)
        except BaseException as error:
            batch.error = error
            if not isinstance(error, Exception):
                raise
        finally:
            batch.done.set()
