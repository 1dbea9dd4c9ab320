"""Looks that many share: what each of them may rely on."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

import pytest

from app.batched import Batched


class Shelf:
    """Something to look at, which notes each look and can make one last."""

    def __init__(self) -> None:
        self.looks: list[list[str]] = []
        self.value = 0
        self.open = threading.Event()
        self.open.set()

    def look(self, keys: Sequence[str]) -> Mapping[str, int]:
        value = self.value
        self.looks.append(sorted(keys))
        assert self.open.wait(10)
        if "broken" in keys:
            raise OSError("the shelf fell")
        return {key: value for key in keys if key != "nothing"}


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 20))


async def begun(shelf: Shelf, looks: int) -> None:
    """Return once so many looks have begun."""
    while len(shelf.looks) < looks:
        await asyncio.sleep(0.001)


def test_those_who_ask_at_once_share_one_look() -> None:
    shelf = Shelf()

    async def test() -> None:
        batched = Batched(shelf.look)
        found = await asyncio.gather(*[batched.get(key) for key in ("a", "b", "a", "nothing")])
        assert found == [0, 0, 0, None]
        assert shelf.looks == [["a", "b", "nothing"]]

    run(test)


def test_who_asks_while_a_look_is_under_way_is_answered_by_a_later_one() -> None:
    shelf = Shelf()

    async def test() -> None:
        batched = Batched(shelf.look)
        shelf.open.clear()
        first = asyncio.create_task(batched.get("a"))
        await begun(shelf, 1)
        shelf.value = 1
        late = [asyncio.create_task(batched.get(key)) for key in ("a", "b")]
        await asyncio.sleep(0)
        shelf.open.set()
        assert await first == 0
        assert await asyncio.gather(*late) == [1, 1]
        assert shelf.looks == [["a"], ["a", "b"]]

    run(test)


def test_what_a_look_raises_reaches_all_it_was_for_and_nobody_else() -> None:
    shelf = Shelf()

    async def test() -> None:
        batched = Batched(shelf.look)
        found = await asyncio.gather(*[batched.get(key) for key in ("a", "broken")], return_exceptions=True)
        assert [type(one) for one in found] == [OSError, OSError]
        assert await batched.get("a") == 0

    run(test)


def test_who_leaves_takes_nobody_along() -> None:
    shelf = Shelf()

    async def test() -> None:
        batched = Batched(shelf.look)
        shelf.open.clear()
        leaving, staying = (asyncio.create_task(batched.get("a")) for _ in range(2))
        await begun(shelf, 1)
        leaving.cancel()
        shelf.open.set()
        assert await staying == 0
        with pytest.raises(asyncio.CancelledError):
            await leaving

    run(test)


def test_a_look_is_for_so_many_at_most_and_several_go_on_at_once() -> None:
    shelf = Shelf()

    async def test() -> None:
        batched = Batched(shelf.look, keys_max=2, at_once=2)
        shelf.open.clear()
        asked = [asyncio.create_task(batched.get(key)) for key in "abcde"]
        await begun(shelf, 2)
        await asyncio.sleep(0.01)
        assert len(shelf.looks) == 2
        shelf.open.set()
        assert await asyncio.gather(*asked) == [0] * 5
        assert sorted(shelf.looks) == [["a", "b"], ["c", "d"], ["e"]]

    run(test)


def test_who_asks_again_at_once_is_answered() -> None:
    shelf = Shelf()

    async def test() -> None:
        batched = Batched(shelf.look)

        async def ask_often() -> None:
            for _ in range(200):
                assert await batched.get("a") == 0

        await asyncio.gather(*[ask_often() for _ in range(3)])

    run(test)
