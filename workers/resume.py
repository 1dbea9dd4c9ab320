"""Going on from an earlier attempt: what it saved is brought into the run directory of the next."""

import hashlib
import shutil
import time
from functools import partial
from pathlib import Path

import structlog

from core.attempts import Attempts
from core.checkpoints import Checkpoint, Checkpoints
from core.claims import Claim
from core.states import CheckpointKind
from core.storage import FULL, Store
from workers.lease import Lease
from workers.rundir import RunDir

STORE_RETRY_SECONDS = 1.0
STORE_WAIT_SECONDS = 3600.0

log = structlog.get_logger()


def bring_recovery(
    claim: Claim, run: RunDir, attempts: Attempts, checkpoints: Checkpoints, store: Store, lease: Lease
) -> bool:
    """Bring the newest recovery checkpoint, and the files that ModelCheckpoint had then; whether there is one.

    Says where the attempt starts and how many steps are trained again. A store that is away is waited for: it would be
    a loss to start from the beginning. Raises `LeaseLost`, and `OSError` when the files cannot be written, or when the
    store is away for too long.
    """
    job = claim.job
    reached = int((job.progress or {}).get("global_step", 0))
    recoveries = lease.insist(partial(checkpoints.of_kind, job.id, CheckpointKind.RECOVERY))
    if recoveries:
        _wait_for(store, lease)
    found = next((one for one in recoveries if _bring(one, store, run.resume)), None)
    if found is not None:
        brought: set[str] = set()
        for kept in lease.insist(partial(checkpoints.of_kind, job.id, CheckpointKind.MODEL_CHECKPOINT)):
            # The newest of a name: an older one that was pinned has kept its row.
            if kept.step <= found.step and kept.name not in brought:
                brought.add(kept.name)
                try:
                    _bring(kept, store, run.checkpoints / kept.name)
                except OSError as error:  # a name that no file can have costs that file; a full disk costs the start
                    if error.errno in FULL or not store.is_there:
                        raise
                    log.warning("checkpoint_not_brought", checkpoint_id=kept.id, error=str(error))
    lost = max(0, reached - (found.step if found else 0))
    start_from = found.id if found else None
    lease.insist(partial(attempts.start_from, job.id, claim.token, start_from, lost))
    return found is not None


def _wait_for(store: Store, lease: Lease) -> None:
    deadline = time.monotonic() + STORE_WAIT_SECONDS
    while not store.is_there:
        if time.monotonic() > deadline or lease.orders.stop or lease.is_shutting_down:
            raise FileNotFoundError(f"the store at {store.root} is away")
        log.warning("store_away", store=str(store.root))
        lease.pause(STORE_RETRY_SECONDS)


def _bring(checkpoint: Checkpoint, store: Store, to: Path) -> bool:
    """Copy a checkpoint out of the store; whether it came whole. Raises `OSError` when it cannot be written."""
    to.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        shutil.copyfile(store.path(checkpoint.storage_key), to)
    except FileNotFoundError:
        store.check()  # it may be the store that is missing
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
