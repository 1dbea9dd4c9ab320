"""What the supervisor asks of a running trainer, and what its ranks agree to do at the next place where they can."""

import json
import time
from pathlib import Path

import torch
from pytorch_lightning import Trainer

from workers.rundir import Control

AGREE_SECONDS = 0.2
AGREE_BATCHES_MAX = 100
LOOK_SECONDS = 0.01
"""The control file is looked at no more often: at a step of less than a millisecond that would be felt."""
STOP_PATIENCE_SECONDS = 0.5
"""A run that can go on from an epoch's beginning only, and is to stop, may come to the next one for so long."""


class Stopped(BaseException):
    """The run was asked to stop and has, between two steps. No `except Exception` of a user's holds it up."""


class ControlFile:
    """The newest content of the control file, for one `stat` a look."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int] | None = None
        self._control = Control()

    def read(self) -> Control:
        """What is asked by now."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return self._control
        if (found.st_mtime_ns, found.st_ino) != self._seen:
            self._seen = found.st_mtime_ns, found.st_ino
            try:
                said = json.loads(self._path.read_bytes())
                self._control = Control(bool(said["stop"]), int(said["saves"]))
            except (OSError, ValueError, TypeError, KeyError):
                pass  # user code can write here too; the supervisor writes the file whole
        return self._control


class Agreement:
    """What is to be done at the next place where it can be. The first rank decides, all do it at the same batch."""

    def __init__(self, control: ControlFile, saves_before: int, interval_seconds: float) -> None:
        self.stop = False
        """To save and stop."""
        self.out_of_patience = False
        """To stop without waiting for a better place."""
        self.save = False
        """To save a checkpoint of the user's."""
        self.due = False
        """To save a recovery checkpoint."""
        self._control = control
        self._saves_seen = saves_before
        self._interval_seconds = interval_seconds
        self._saved_at = time.monotonic()
        self._stop_seen_at: float | None = None
        self._batches_left = 1
        self._looked_at = time.monotonic()
        self._looks_every = 1
        self._look_again_at = 0.0

    def saved(self) -> None:
        """The interval to the next recovery checkpoint begins."""
        self.due = False
        self._saved_at = time.monotonic()

    def look(self) -> None:
        """See what is asked. Only where there is one rank."""
        now = time.monotonic()
        self.due = now - self._saved_at >= self._interval_seconds
        if now < self._look_again_at:
            return
        self._look_again_at = now + LOOK_SECONDS
        control = self._control.read()
        if control.saves > self._saves_seen:
            self._saves_seen, self.save = control.saves, True
        if control.stop:
            self.stop = True
            self._stop_seen_at = self._stop_seen_at or now
            self.out_of_patience = now - self._stop_seen_at > STOP_PATIENCE_SECONDS

    def at_batch_end(self, trainer: Trainer) -> None:
        """See what is asked, once a batch; several ranks do as the first says, every few batches.

        How many follows from how long they take, and is what the first says too.
        """
        if trainer.world_size == 1:
            self.look()
            return
        self._batches_left -= 1
        if self._batches_left > 0:
            return
        told = torch.zeros(5, dtype=torch.int64)
        if trainer.is_global_zero:
            self.look()
            seconds = time.monotonic() - self._looked_at
            self._looks_every = max(
                1, min(AGREE_BATCHES_MAX, int(self._looks_every * AGREE_SECONDS / (seconds + 1e-9)))
            )
            self._looked_at += seconds
            told += torch.tensor([self.stop, self.out_of_patience, self.save, self.due, self._looks_every])
        told = told.to(trainer.strategy.root_device)
        torch.distributed.broadcast(told, 0)
        stop, out_of_patience, save, due, self._batches_left = told.tolist()
        self.stop, self.out_of_patience = bool(stop), bool(out_of_patience)
        self.save, self.due = bool(save), bool(due)
