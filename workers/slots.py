"""Which devices trainers of this process still use, whatever the database says by now."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class Slots:
    """Has whoever is given a device wait until whoever had it before has let go of it.

    An attempt may be over for the database before this machine has heard of it and killed its ranks.
    """

    def __init__(self) -> None:
        self._used: list[str] = []
        self._changed = threading.Condition()

    def free(self, devices: Sequence[str]) -> list[str]:
        """Those of the devices that no trainer of this process uses."""
        with self._changed:
            return [device for device in devices if device not in self._used]

    @contextmanager
    def use(self, devices: Sequence[str], patience_seconds: float) -> Iterator[bool]:
        """Use devices for a while; whether they were free within the time. After that they are used all the same."""
        with self._changed:
            free = self._changed.wait_for(lambda: not set(devices) & set(self._used), patience_seconds)
            self._used += devices
        try:
            yield free
        finally:
            with self._changed:
                for device in devices:
                    self._used.remove(device)
                self._changed.notify_all()
