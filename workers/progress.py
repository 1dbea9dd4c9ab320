"""How far a run is, and how fast it has been lately: what a job's `progress` tells."""

from collections import deque
from typing import Any

from workers.rundir import Progress

SPEED_WINDOW_SECONDS = 10.0


class Speedometer:
    """Makes a job's `progress` of what the trainer reports; speed is that of the last `SPEED_WINDOW_SECONDS`.

    How much is done is told by the limit that comes first: of optimizer steps, or of batches, which are not one each
    where a module optimizes by hand.
    """

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
        done = _done(now)
        pace = (done - (_done(before) or 0.0)) / seconds if done is not None and seconds > 0 else None
        return {
            "epoch": now.epoch,
            "global_step": now.global_step,
            "max_steps": now.max_steps,
            "fraction": done,
            "steps_per_second": None if speed is None else round(speed, 3),
            "eta_seconds": None if done is None or not pace or pace < 0 else round((1.0 - done) / pace, 1),
        }


def _done(progress: Progress) -> float | None:
    shares = [
        count / most
        for count, most in ((progress.global_step, progress.max_steps), (progress.batches, progress.max_batches))
        if most
    ]
    return min(1.0, max(shares)) if shares else None
