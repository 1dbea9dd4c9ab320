"""How far a run is, and how fast it has been lately: what a job's `progress` tells."""

from collections import deque
from typing import Any

from workers.rundir import Progress

SPEED_WINDOW_SECONDS = 10.0


class Speedometer:
    """Makes a job's `progress` of what the trainer reports; speed is that of the last `SPEED_WINDOW_SECONDS`."""

    def __init__(self) -> None:
        self._seen: deque[Progress] = deque()

    def read(self, now: Progress) -> dict[str, Any]:
        """The job's `progress` by a further report."""
        self._seen.append(now)
        while len(self._seen) > 2 and now.at - self._seen[0].at > SPEED_WINDOW_SECONDS:
            self._seen.popleft()
        before = self._seen[0]
        seconds = now.at - before.at
        speed = (now.global_step - before.global_step) / seconds if seconds > 0 else None
        left = None if now.max_steps is None else max(0, now.max_steps - now.global_step)
        return {
            "epoch": now.epoch,
            "global_step": now.global_step,
            "max_steps": now.max_steps,
            "fraction": None if not now.max_steps else min(1.0, now.global_step / now.max_steps),
            "steps_per_second": None if speed is None else round(speed, 3),
            "eta_seconds": None if left is None or not speed else round(left / speed, 1),
        }
