"""Checkpoint files as a run writes them: whole, and handed to the supervisor by a link in the outbox."""

import errno
import math
import os
import re
import shutil
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from workers.rundir import RunDir
from workers.trainer.origin import Origin, UnusableCheckpoint, hyperparameters_that_run_code, unsafe
from workers.trainer.spool import Spool

MODEL_CHECKPOINT, RECOVERY, REQUESTED, STOP = "model_checkpoint", "recovery", "requested", "stop"
MANUAL = "manual"
SCRATCH = (".lr_find_", ".scale_batch_size_")
DISK_FULL = {errno.ENOSPC, errno.EDQUOT}


class OutboxCheckpointIO(TorchCheckpointIO):
    """Saves as Lightning does, atomically, and links each finished file into the outbox.

    A link costs nothing and outlives the file's own name, so ModelCheckpoint may rotate its files at once while the
    supervisor still uploads. Hashing, syncing and uploading are the supervisor's, off the training loop.
    """

    def __init__(self, run: RunDir, spool: Spool, origin: Origin) -> None:
        super().__init__()
        self._origin = origin
        self._looked = False
        self._run = run
        self._spool = spool
        self._count = 0
        self._loads = False
        self.trainer: Trainer | None = None
        self.kind = MODEL_CHECKPOINT

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write the file under a temporary name, rename it, link it, report it."""
        if is_scratch(Path(path)):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        file = self._write(checkpoint, Path(path))
        self._check_loads(checkpoint, Path(path))
        self._report(checkpoint, Path(path), file)

    def save_own(self, checkpoint: dict[str, Any], path: Path, kind: str) -> str | None:
        """Save a checkpoint that the service wants, not the user's code; None, or why not, on a disk that is full.

        Raises `UnpicklingError` for a recovery checkpoint that could not be loaded, and `OSError` for any other fault.
        """
        try:
            file = self._write(checkpoint, path)
            if kind == RECOVERY and not self._loads:
                # Once, while there is time to say so: hyperparameters may be of types that load only unsafely.
                torch.load(path, weights_only=True, map_location="cpu", mmap=True)
                self._loads = True
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            return str(error)
        before, self.kind = self.kind, kind
        try:
            self._report(checkpoint, path, file)
        finally:
            self.kind = before
        return None

    def load_checkpoint(self, path: str | Path, *arguments: Any, **options: Any) -> dict[str, Any]:
        """Read what the run starts from. Where ModelCheckpoint's files lay in an earlier attempt, they lie here now.

        Those of another job do not: ModelCheckpoint begins anew then, as by hand with another folder. Raises
        `UnusableCheckpoint`.
        """
        try:
            checkpoint: dict[str, Any] = super().load_checkpoint(path, *arguments, **options)
        except UnpicklingError as error:
            raise UnusableCheckpoint(unsafe("ckpt_path", error)) from error
        if Path(path) == self._run.start:
            return self._origin.taken(checkpoint)
        for key, state in checkpoint.get("callbacks", {}).items():
            if "best_k_models" in state:
                checkpoint["callbacks"][key] = moved_here(state, str(self._run.checkpoints))
        return checkpoint

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a file that the run no longer keeps, and say so."""
        super().remove_checkpoint(path)
        if is_scratch(Path(path)):
            return
        self._spool.checkpoint_removed(self._name(Path(path)))

    def _write(self, checkpoint: dict[str, Any], path: Path) -> str:
        """The name in the outbox. Nothing is left where it fails."""
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.draft")
        try:
            with draft.open("wb") as file:  # not by its name: torch would tell a full disk as an error without a number
                torch.save(checkpoint, file)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
        link = self._run.outbox / f"{self._count + 1:06d}"
        try:
            os.link(path, link)
        except OSError:  # the run saves to another file system
            try:
                shutil.copyfile(path, link)
            except OSError:
                link.unlink(missing_ok=True)
                raise
        self._count += 1
        return link.name

    def _check_loads(self, checkpoint: dict[str, Any], path: Path) -> None:
        """Say once, early, that the run's checkpoints cannot be loaded safely, and for what."""
        if self._looked:
            return
        self._looked = True
        try:
            torch.load(path, weights_only=True, map_location="cpu", mmap=True)
        except UnpicklingError as error:
            names = hyperparameters_that_run_code(checkpoint)
            self._spool.event("checkpoint_not_loadable", reason=str(error)[:500], hyperparameters=names[:100])

    def _report(self, checkpoint: dict[str, Any], path: Path, file: str) -> None:
        kind = MANUAL if self.kind == MODEL_CHECKPOINT and not self._is_of_callback(path) else self.kind
        self._spool.checkpoint(
            file=file,
            name=self._name(path),
            kind=kind,
            step=int(checkpoint.get("global_step", 0)),
            epoch=int(checkpoint.get("epoch", 0)),
            metrics=self._metrics(),
            best=self._is_best(path),
        )

    def _name(self, path: Path) -> str:
        """A file's place among the run's checkpoints: two callbacks may give the same name in folders of their own.

        What the run saves elsewhere by itself keeps its path, as far as it lies in the working directory.
        """
        folder, work, file = self._run.checkpoints.resolve(), self._run.work.resolve(), path.resolve()
        if file.is_relative_to(folder):
            return file.relative_to(folder).as_posix()
        name = file.relative_to(work).as_posix() if file.is_relative_to(work) else file.name
        return f"{MANUAL}/{name}" if (folder / name).exists() else name

    def _is_of_callback(self, path: Path) -> bool:
        """Whether a callback chose the place, and not the run's code."""
        if path.resolve().is_relative_to(self._run.checkpoints.resolve()):
            return True
        callbacks = [] if self.trainer is None else self.trainer.checkpoint_callbacks
        return any(str(getattr(callback, "dirpath", None)) == str(path.parent) for callback in callbacks)

    def _metrics(self) -> dict[str, float | str]:
        if self.trainer is None:
            return {}
        # The public property would compute what is under way; with several ranks, on one of them, which waits for ever.
        told = (
            self.trainer._logger_connector._callback_metrics if self.kind == RECOVERY else self.trainer.callback_metrics
        )
        values = {name: float(value) for name, value in told.items()}
        return {name: value if math.isfinite(value) else str(value) for name, value in values.items()}

    def _is_best(self, path: Path) -> bool:
        """Whether the run's first ModelCheckpoint calls this file its best. It decides that before it saves."""
        if self.trainer is None or self.kind != MODEL_CHECKPOINT:
            return False
        callback = self.trainer.checkpoint_callback
        return isinstance(callback, ModelCheckpoint) and Path(callback.best_model_path) == path


def is_scratch(path: Path) -> bool:
    """Whether this is what a finder of batch sizes or learning rates puts by while it tries: no checkpoint."""
    return path.name.startswith(SCRATCH)


def moved_here(value: Any, folder: str) -> Any:
    """ModelCheckpoint's state with the checkpoint folder of another attempt's run directory replaced by this one's."""
    if isinstance(value, str):
        return re.sub(r"^.*/attempt-\d+(-node-\d+)?/checkpoints(?=/|$)", lambda _: folder, value)
    if isinstance(value, dict):
        return {moved_here(name, folder): moved_here(item, folder) for name, item in value.items()}
    return value
