"""Where an attempt starts: what an earlier one saved, or the job names, is brought into its run directory."""

import hashlib
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from core.attempts import Attempts
from core.checkpoints import Checkpoint, Checkpoints
from core.claims import Claim
from core.database import Database
from core.jobs import Jobs
from core.states import CheckpointKind
from core.storage import FULL, Store
from workers.lease import Lease
from workers.rundir import EXACT, PLAIN, RunDir

STORE_RETRY_SECONDS = 1.0
STORE_WAIT_SECONDS = 3600.0
LENGTHS = frozenset({"max_epochs", "max_steps", "min_epochs", "min_steps", "max_time"})
"""Flags of the Trainer that say how long a run is, not what it does."""

log = structlog.get_logger()


class OriginLost(Exception):
    """The checkpoint from which a job was to start is missing or damaged."""


@dataclass(frozen=True, slots=True)
class Brought:
    """What lies in the run directory to start from; as `Order` has it."""

    resume: bool = False
    start: str = ""
    weights: bool = False


class Resume:
    """Brings what an attempt starts from. A store that is away is waited for: it would be a loss to start anew."""

    def __init__(self, database: Database, store: Store, claim: Claim, run: RunDir, lease: Lease) -> None:
        self._attempts = Attempts(database)
        self._checkpoints = Checkpoints(database)
        self._jobs = Jobs(database)
        self._store = store
        self._claim = claim
        self._run = run
        self._lease = lease

    def bring(self) -> Brought:
        """Bring the newest recovery checkpoint of the job, or else the checkpoint from which it is to start.

        Says where the attempt starts and how many steps are trained again. Raises `OriginLost`, `LeaseLost`, and
        `OSError` when the files cannot be written, or when the store is away for too long.
        """
        job = self._claim.job
        trains, reached = job.subcommand == "fit", int((job.progress or {}).get("global_step", 0))
        found = self._bring_recovery() if self._claim.attempt > 1 and trains else None
        if found is not None:
            self._say(found.id, reached - found.step)
            return Brought(resume=True)
        origin = self._bring_origin(job.start_checkpoint_id, self._run.start)
        weights = self._bring_origin(job.weights_checkpoint_id, self._run.weights)
        if trains and origin is not None:
            self._say(origin.id, max(0, reached - origin.step))
            return Brought(start=EXACT if self._is_same_run(origin) else PLAIN)
        if self._claim.attempt > 1:
            self._say(None, reached if trains else 0)
        return Brought(start=PLAIN if origin is not None else "", weights=weights is not None)

    def _bring_recovery(self) -> Checkpoint | None:
        """The newest recovery checkpoint that is whole, and the files that ModelCheckpoint had then."""
        recoveries = self._of_kind(CheckpointKind.RECOVERY)
        if recoveries:
            self._wait_for_store()
        found = next((one for one in recoveries if self._bring(one, self._run.resume)), None)
        if found is None:
            return None
        brought: set[str] = set()
        for kept in self._of_kind(CheckpointKind.MODEL_CHECKPOINT):
            # The newest of a name: an older one that was pinned has kept its row.
            if kept.step <= found.step and kept.name not in brought:
                brought.add(kept.name)
                try:
                    self._bring(kept, self._run.checkpoints / kept.name)
                except OSError as error:  # a name that no file can have costs that file; a full disk costs the start
                    if error.errno in FULL or not self._store.is_there:
                        raise
                    log.warning("checkpoint_not_brought", checkpoint_id=kept.id, error=str(error))
        return found

    def _bring_origin(self, checkpoint_id: str | None, to: Path) -> Checkpoint | None:
        if checkpoint_id is None:
            return None
        checkpoint = self._lease.insist(partial(self._checkpoints.look_up, checkpoint_id))
        self._wait_for_store()
        if checkpoint is None or not self._bring(checkpoint, to):
            raise OriginLost(f"{checkpoint_id}, from which it was to start, is missing or damaged")
        return checkpoint

    def _is_same_run(self, origin: Checkpoint) -> bool:
        """Whether the job goes on with the run that saved it: then random numbers and the place in the data count."""
        before = self._lease.insist(partial(self._jobs.look_up, origin.job_id))
        job = self._claim.job
        return before is not None and before.subcommand == "fit" and what_runs(before.config) == what_runs(job.config)

    def _say(self, start_from: str | None, steps_lost: int) -> None:
        job_id, token = self._claim.job.id, self._claim.token
        if self._claim.node_rank:  # the first machine has said so; all start from the same, or none does
            if start_from != self._lease.orders.resumed_from:
                raise FileNotFoundError(f"{self._lease.orders.resumed_from}, from which the others start, is not here")
            return
        self._lease.insist(partial(self._attempts.start_from, job_id, token, start_from, max(0, steps_lost)))

    def _of_kind(self, kind: str) -> list[Checkpoint]:
        return list(self._lease.insist(partial(self._checkpoints.of_kind, self._claim.job.id, kind)))

    def _wait_for_store(self) -> None:
        store, lease = self._store, self._lease
        deadline = time.monotonic() + STORE_WAIT_SECONDS
        while not store.is_there:
            if time.monotonic() > deadline or lease.orders.stop or lease.is_shutting_down:
                raise FileNotFoundError(f"the store at {store.root} is away")
            log.warning("store_away", store=str(store.root))
            lease.pause(STORE_RETRY_SECONDS)

    def _bring(self, checkpoint: Checkpoint, to: Path) -> bool:
        """Copy a checkpoint out of the store; whether it came whole. Raises `OSError` when it cannot be written."""
        to.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            shutil.copyfile(self._store.path(checkpoint.storage_key), to)
        except FileNotFoundError:
            self._store.check()  # it may be the store that is missing
            log.warning("checkpoint_missing", checkpoint_id=checkpoint.id)
            return False
        except OSError:
            to.unlink(missing_ok=True)  # half of it, where a disk is full
            raise
        with to.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == checkpoint.sha256:
                return True
        log.warning("checkpoint_damaged", checkpoint_id=checkpoint.id)
        to.unlink()
        return False


def what_runs(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config without what says where a run begins and how long it is."""
    flags = {name: value for name, value in (config.get("trainer") or {}).items() if name not in LENGTHS}
    return {name: value for name, value in config.items() if name != "ckpt_path"} | {"trainer": flags}
