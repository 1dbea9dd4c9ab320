"""The supervisor of one attempt: starts its trainer, watches it, obeys its callers, and says how it ended."""

import hashlib
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable
from enum import Enum, auto
from functools import partial
from pathlib import Path
from typing import TypeVar

import structlog
from sqlalchemy.exc import SQLAlchemyError

from core.attempts import Attempts, Retry
from core.checkpoints import Checkpoint, Checkpoints
from core.claims import Claim
from core.database import Database, is_outage
from core.errors import LeaseLost
from core.settings import Settings
from core.states import ReasonCode, Status
from core.storage import Store
from workers.forkserver import Fork, wait_any
from workers.lease import Lease
from workers.memory import machine_bytes, memory_bytes, oom_kills
from workers.rundir import Order, Outcome, RunDir
from workers.ship import RECOVERY, Shipper

T = TypeVar("T")

TICK_SECONDS = 0.25
DATABASE_RETRY_SECONDS = 1.0
STORE_RETRY_SECONDS = 600.0
LOG_TAIL_BYTES = 8 * 1024
MODEL_CHECKPOINT = "model_checkpoint"
CRASHES = {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGSYS}

log = structlog.get_logger()


class Ended(Enum):
    """Why the supervisor stopped watching."""

    EXITED = auto()
    LOST = auto()
    SHUT_DOWN = auto()
    KILLED_BY_REQUEST = auto()
    TIMEOUT = auto()
    OUT_OF_MEMORY = auto()
    NEVER_STARTED = auto()


class CannotStart(Exception):
    """The worker cannot start a trainer just now, through no fault of the job's."""


class Supervisor:
    """Runs one claimed attempt to its end, in the calling thread."""

    def __init__(
        self,
        database: Database,
        store: Store,
        config: Settings,
        claim: Claim,
        threads: int,
        shutting_down: threading.Event,
    ) -> None:
        self._config = config
        self._claim = claim
        self._threads = threads
        self._shutting_down = shutting_down
        self._store = store
        self._attempts = Attempts(database)
        self._checkpoints = Checkpoints(database)
        self._run = RunDir(config.runs_path / claim.job.id / f"attempt-{claim.attempt}")
        self._lease = Lease(self._attempts, claim, config.lease_seconds)
        self._shipper = Shipper(database, store, config, claim, self._run, self._lease.lost)
        self._forks: list[Fork] = []
        self._log = log.bind(job_id=claim.job.id, attempt=claim.attempt)
        self._oom_kills = oom_kills()

    def run(self) -> bool:
        """Train, and record the outcome; whether this worker is fit to start another. No process of it is left."""
        self._lease.start()
        try:
            self._start()
            ended = self._watch()
            self._kill()
            shipped = self._shipper.finish(STORE_RETRY_SECONDS, self._shutting_down)
            self._conclude(ended, shipped=shipped)
        except LeaseLost as lost:
            self._log.warning("attempt_abandoned", detail=str(lost))
        except CannotStart as failure:
            self._give_back(str(failure))
            return False
        except Exception as error:
            self._log.exception("supervisor_failed")
            self._give_back(f"its supervisor failed: {error!r}")
            return False
        finally:
            self._kill()
            self._lease.stop()
            self._shipper.abandon()
            self._mark_ended()
        return True

    def _start(self) -> None:
        claim = self._claim
        try:
            resume = claim.attempt > 1 and self._resume()
            self._run.create(
                Order(
                    job_id=claim.job.id,
                    attempt=claim.attempt,
                    config=claim.job.config,
                    devices=claim.devices,
                    catalog_modules=list(self._config.catalog_modules),
                    master_port=_free_port() if len(claim.devices) > 1 else 0,
                    threads=self._threads,
                    recovery_interval_seconds=self._config.recovery_interval_seconds,
                    resume=resume,
                )
            )
        except OSError as error:
            raise CannotStart(f"its run directory cannot be made: {error}") from error
        try:
            for rank in range(len(claim.devices)):
                self._forks.append(Fork("workers.trainer.main", "train", str(self._run.path), rank))
        except (OSError, EOFError) as error:
            raise CannotStart(f"the fork server gave no process: {error!r}") from error
        pid = self._forks[0].pid
        self._log.info("started", pid=pid, devices=claim.devices)
        tell = partial(self._attempts.tell, claim.job.id, claim.token, "started", attempt=claim.attempt, pid=pid)
        self._insist(tell)
        self._shipper.start()

    def _resume(self) -> bool:
        """Bring the newest recovery checkpoint into the run directory, and the files that ModelCheckpoint has there."""
        claim = self._claim
        reached = int((claim.job.progress or {}).get("global_step", 0))
        recoveries = self._insist(partial(self._checkpoints.of_kind, claim.job.id, RECOVERY))
        found = next((one for one in recoveries if self._bring(one, self._run.resume)), None)
        if found is not None:
            for kept in self._insist(partial(self._checkpoints.of_kind, claim.job.id, MODEL_CHECKPOINT)):
                if kept.step <= found.step:
                    self._bring(kept, self._run.checkpoints / kept.name)
        lost = max(0, reached - (found.step if found else 0))
        start_from = found.id if found else None
        self._insist(partial(self._attempts.start_from, claim.job.id, claim.token, start_from, lost))
        return found is not None

    def _bring(self, checkpoint: Checkpoint, to: Path) -> bool:
        """Copy a checkpoint out of the store; whether it came whole. Raises `OSError` when it cannot be written."""
        to.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            shutil.copyfile(self._store.path(checkpoint.storage_key), to)
        except FileNotFoundError:
            self._log.warning("checkpoint_missing", checkpoint_id=checkpoint.id)
            return False
        with to.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == checkpoint.sha256:
                return True
        self._log.warning("checkpoint_damaged", checkpoint_id=checkpoint.id)
        to.unlink()
        return False

    def _watch(self) -> Ended:
        claim, config = self._claim, self._config
        started = time.monotonic()
        stop_by = float("inf")
        while True:
            wait_any(self._forks, TICK_SECONDS)
            now = time.monotonic()
            codes = [fork.exit_code for fork in self._forks]
            if None not in codes or any(code not in (None, 0) for code in codes):
                return Ended.EXITED
            if self._lease.lost.is_set():
                return Ended.LOST
            if self._shutting_down.is_set():
                return Ended.SHUT_DOWN
            orders = self._lease.orders
            if orders.force or now > stop_by:
                return Ended.KILLED_BY_REQUEST
            if now - started > max(1.0, orders.max_seconds - claim.job.seconds_spent):
                return Ended.TIMEOUT
            if now - started > config.start_timeout_seconds and not self._run.has_spoken():
                return Ended.NEVER_STARTED
            memory_max = self._memory_max()
            if memory_bytes([fork.pid for fork in self._forks], memory_max) > memory_max:
                return Ended.OUT_OF_MEMORY
            if orders.cancel and stop_by == float("inf"):
                stop_by = now + config.stop_grace_seconds
                self._run.ask_to_stop()

    def _conclude(self, ended: Ended, *, shipped: bool) -> None:
        job_id, token = self._claim.job.id, self._claim.token
        if ended is Ended.LOST or self._lease.lost.is_set():
            raise LeaseLost("another holds the job")
        if ended is Ended.SHUT_DOWN:
            self._lose(ReasonCode.PREEMPTED, "the worker is shutting down")
            return
        if ended is Ended.NEVER_STARTED:
            seconds = self._config.start_timeout_seconds
            self._lose(ReasonCode.WORKER_LOST, f"no sign of life within {seconds:g} s of its start")
            return
        outcome = self._outcome(ended)
        if outcome is None:
            self._lose(ReasonCode.WORKER_LOST, "the trainer was killed from outside, or its fork server was")
            return
        if not shipped and outcome.status != "failed":
            if self._shipper.error is None:
                self._lose(ReasonCode.WORKER_LOST, "what it trained could not be handed over")
                return
            message = f"training ended well, but its files cannot be stored: {self._shipper.error}"
            outcome = Outcome("failed", ReasonCode.OUT_OF_DISK, message)
        settled = outcome.status in ("succeeded", "stopped")  # there is a later checkpoint than the recoveries
        if outcome.status == "stopped":
            self._insist(partial(self._attempts.tell, job_id, token, "stopped", attempt=self._claim.attempt))
            outcome = Outcome("cancelled", ReasonCode.CANCELLED_BY_USER, "stopped by request between two steps")
        if settled:
            for recovery in self._insist(partial(self._checkpoints.of_kind, job_id, RECOVERY)):
                self._insist(partial(self._checkpoints.forget, recovery, self._store, token=token))
        reason = {"code": outcome.code, "message": outcome.message} if outcome.code else None
        if reason and outcome.traceback:
            reason["traceback"] = outcome.traceback
        self._insist(partial(self._attempts.finish, job_id, token, Status(outcome.status), reason))
        self._log.info("ended", status=outcome.status, code=outcome.code)

    def _outcome(self, ended: Ended) -> Outcome | None:
        """How the run ended, from the strongest witness to the weakest; None: by no fault of its own."""
        if ended is Ended.KILLED_BY_REQUEST:
            message = "killed by request, without a checkpoint of the last steps"
            return Outcome("cancelled", ReasonCode.CANCELLED_BY_USER, message)
        if ended is Ended.TIMEOUT:
            message = f"it ran for longer than limits.max_seconds ({self._lease.orders.max_seconds:g} s)"
            return Outcome("failed", ReasonCode.TIMEOUT, message)
        out_of_memory = Outcome(
            "failed",
            ReasonCode.OOM,
            f"the trainer and its children took more memory than they may have: {self._memory_max()} bytes",
        )
        if ended is Ended.OUT_OF_MEMORY:
            return out_of_memory
        said = self._run.read_outcome()
        kernel_killed = oom_kills() > self._oom_kills
        if said is not None:
            # A DataLoader's worker that the kernel killed for memory is told by Lightning as an error of the run.
            of_kernel = kernel_killed and said.status == "failed" and "killed by signal: Killed" in (said.message or "")
            if said.status == "lost":
                return None
            return out_of_memory if of_kernel else said
        codes = [fork.exit_code for fork in self._forks]
        if kernel_killed and -signal.SIGKILL in codes:
            return out_of_memory
        if any(fork.lost_its_server for fork in self._forks):
            return None
        telling = [code for code in codes if code not in (None, 0, -signal.SIGKILL, -signal.SIGTERM)]
        if telling:
            return self._exit(telling[0] or 0)
        return self._exit(0) if all(code == 0 for code in codes) else None

    def _exit(self, code: int) -> Outcome:
        tail = self._run.log_tail(LOG_TAIL_BYTES)
        if code >= 0:
            message = f"the trainer process exited with code {code} before the run had ended (os._exit in the code?)"
            return Outcome("failed", ReasonCode.USER_ERROR, message, tail)
        name = signal.Signals(-code).name
        if -code not in CRASHES:
            return Outcome("failed", ReasonCode.USER_ERROR, f"the trainer was ended by {name}", tail)
        trace = tail[max(0, tail.rfind("Fatal Python error")) :]  # what faulthandler wrote
        return Outcome("failed", ReasonCode.USER_ERROR, f"the trainer crashed with {name}", trace)

    def _memory_max(self) -> int:
        return self._lease.orders.max_memory_bytes or self._config.job_max_memory_bytes or int(machine_bytes() * 0.9)

    def _give_back(self, message: str) -> None:
        self._kill()
        try:
            self._lose(ReasonCode.WORKER_LOST, message)
        except LeaseLost as lost:
            self._log.warning("attempt_abandoned", detail=str(lost))

    def _lose(self, code: ReasonCode, message: str) -> None:
        retry = Retry(self._config.retry_backoff_seconds, self._config.retry_backoff_max_seconds)
        self._insist(partial(self._attempts.lose, self._claim.job.id, self._claim.token, code, message, retry))
        self._log.warning("attempt_lost", code=code, detail=message)

    def _kill(self) -> None:
        for fork in self._forks:
            fork.kill()
        for fork in self._forks:
            fork.wait(5.0)

    def _mark_ended(self) -> None:
        try:
            self._run.ended.touch()
        except OSError as error:
            self._log.warning("run_directory_not_marked", error=str(error))

    def _insist(self, verb: Callable[[], T]) -> T:
        """Do it once the database is there; give up only when the lease is lost or the worker shuts down meanwhile."""
        while True:
            try:
                return verb()
            except SQLAlchemyError as error:
                if not is_outage(error):
                    raise
                self._log.warning("database_away", error=str(error).splitlines()[0])
                if self._shutting_down.wait(DATABASE_RETRY_SECONDS) or self._lease.lost.is_set():
                    raise LeaseLost("the worker shut down while the database was away") from error


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
