"""Devices that a trainer of this worker still uses."""

import threading

from tests.waiting import wait_until
from workers.slots import Slots


def test_a_device_is_waited_for_until_whoever_had_it_lets_go() -> None:
    slots, got = Slots(), []
    first = slots.use(["gpu:0", "gpu:1"], 0.0)
    assert first.__enter__()

    def wait() -> None:
        with slots.use(["gpu:1"], 30.0) as free:
            got.append(free)

    waiting = threading.Thread(target=wait)
    waiting.start()
    with slots.use(["gpu:2"], 0.0) as free:
        assert free, "others are free meanwhile"
    assert got == []
    first.__exit__(None, None, None)
    wait_until(lambda: got, what="the device is free")
    assert got == [True]
    waiting.join()


def test_a_device_that_is_not_let_go_of_in_time_is_used_all_the_same() -> None:
    slots = Slots()
    with slots.use(["cpu:0"], 0.0), slots.use(["cpu:0"], 0.01) as free:
        assert not free
