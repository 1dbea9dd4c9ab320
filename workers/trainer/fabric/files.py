"""Checkpoints of a loop on Fabric: what `fabric.save` writes is the job's, what `fabric.load` reads loads safely."""

from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from pytorch_lightning.plugins.io import TorchCheckpointIO

from workers.rundir import Order, RunDir
from workers.trainer.fabric.logger import LoopLogger
from workers.trainer.fabric.state import LoopState
from workers.trainer.files import MANUAL, MODEL_CHECKPOINT, OutboxCheckpointIO
from workers.trainer.origin import Origin, UnusableCheckpoint, unsafe
from workers.trainer.spool import Spool

OWN = "lightyard"
"""Under this key a recovery checkpoint has what the service adds to the loop's state."""
SAVED, DISK_FULL, NOT_LOADABLE = range(3)


class LoopCheckpointIO(OutboxCheckpointIO):
    """Saves as for a module; what the loop saves itself is named by its path below the folder of the run's checkpoints.

    A file that the loop has removed meanwhile is reported as removed at the next save.
    """

    def __init__(self, run: RunDir, spool: Spool, order: Order, state: LoopState, logger: LoopLogger) -> None:
        super().__init__(run, spool, Origin(run, order, spool))
        self.result: tuple[int, str] = SAVED, ""
        """How the last save of the service's own went, and why."""
        self.start_file: Path | None = None
        """The file from which the run is to go on."""
        self.on_start: Callable[[dict[str, Any] | None], None] = lambda own: None
        """Told when that has been loaded: what the service had added, if anything."""
        self._state = state
        self._logger = logger
        self._kept = {self._name(path): path for path in run.checkpoints.rglob("*") if path.is_file()}

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Save what the loop or the service wants saved. For the service's own, `result` says how it went."""
        path = Path(path).absolute()
        if self.kind == MODEL_CHECKPOINT:
            self.tell_removed()
            super().save_checkpoint(checkpoint, path, storage_options)
            self._kept[self._name(path)] = path
            return
        try:
            why = self.save_own(checkpoint, path, self.kind)
            self.result = (SAVED, "") if why is None else (DISK_FULL, why)
        except UnpicklingError as error:
            self.result = NOT_LOADABLE, f"its checkpoints cannot be loaded without running code: {error}"[:500]

    def load_checkpoint(self, path: str | Path, *arguments: Any, **options: Any) -> dict[str, Any]:
        """Read a checkpoint, without running code that may be in it. Raises `UnusableCheckpoint`."""
        options["weights_only"] = True
        try:
            checkpoint: dict[str, Any] = TorchCheckpointIO.load_checkpoint(self, path, *arguments, **options)
        except UnpicklingError as error:
            raise UnusableCheckpoint(unsafe(Path(path).name, error)) from error
        if self.start_file is not None and Path(path) == self.start_file:
            own = checkpoint.pop(OWN, None) if isinstance(checkpoint, dict) else None
            self.on_start(own)
        return checkpoint

    def tell_removed(self) -> None:
        """Report which of the loop's files are gone."""
        for name, path in list(self._kept.items()):
            if not path.exists():
                del self._kept[name]
                self._spool.checkpoint_removed(name)

    def _report(self, checkpoint: dict[str, Any], path: Path, file: str) -> None:
        elsewhere = self.kind == MODEL_CHECKPOINT and not path.is_relative_to(self._run.checkpoints)
        self._spool.checkpoint(
            file=file,
            name=self._name(path),
            kind=MANUAL if elsewhere else self.kind,
            step=self._state.global_step,
            epoch=self._state.epoch,
            metrics=dict(self._logger.latest),
            best=self.kind == MODEL_CHECKPOINT and path.stem == "best",
        )
