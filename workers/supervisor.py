"""The supervisor of one attempt: starts its trainer, keeps its lease, obeys its callers, and says how it ended."""

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

import psutil
import structlog
from sqlalchemy.exc import SQLAlchemyError

from core.attempts import Attempts, Claim, Retry
from core.checkpoints import Checkpoint, Checkpoints
from core.database import Database
from core.errors import LeaseLost
from core.settings import Settings
from core.states import ReasonCode, Status
from core.storage import Store
from workers.forkserver import FORK_SERVER_DIED, Fork, wait_any
from workers.rundir import Order, Outcome, RunDir
from workers.ship import RECOVERY, Shipper

TICK_SECONDS = 0.25
ORDERS_SECONDS = 0.5
DATABASE_RETRY_SECONDS = 1.0
REST_SECONDS = 600.0
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
        self._database = database
        self._config = config
        self._claim = claim
        self._threads = threads
        self._shutting_down = shutting_down
        self._attempts = Attempts(database)
        self._run = RunDir(config.runs_path / claim.job.id / f"attempt-{claim.attempt}")
        self._store = store
        self._checkpoints = Checkpoints(database)
        self._shipper = Shipper(database, store, config, claim, self._run)
        self._forks: list[Fork] = []
        self._log = log.bind(job_id=claim.job.id, attempt=claim.attempt)
        self._killed_by_kernel = _oom_kills()

    def run(self) -> None:
        """Train, and record the outcome. Whatever goes wrong, no process of the attempt is left."""
        try:
            self._start()
            ended = self._watch()
            self._kill()
            self._shipper.finish(REST_SECONDS)
            self._conclude(Ended.LOST if self._shipper.lost.is_set() else ended)
        except LeaseLost as lost:
            self._log.warning("lease_lost", detail=str(lost))
        except OSError as error:
            self._log.error("attempt_not_started", error=str(error))
            message = f"the run directory cannot be made: {error}"
            self._insist(
                lambda: self._attempts.finish(
                    self._claim.job.id,
                    self._claim.token,
                    Status.FAILED,
                    {"code": ReasonCode.OUT_OF_DISK, "message": message},
                )
            )
        finally:
            self._kill()
            if self._shipper.is_alive():
                self._shipper.lost.set()
            self._run.ended.touch()

    def _start(self) -> None:
        claim = self._claim
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
        for rank in range(len(claim.devices)):
            self._forks.append(Fork("workers.trainer.main", "train", str(self._run.path), rank))
        self._log.info("started", pid=self._forks[0].pid, devices=claim.devices)
        self._insist(
            lambda: self._attempts.tell(
                claim.job.id, claim.token, "started", attempt=claim.attempt, pid=self._forks[0].pid
            )
        )
        self._shipper.start()

    def _resume(self) -> bool:
        """Bring the newest recovery checkpoint into the run directory, and the files that ModelCheckpoint has there."""
        claim = self._claim
        reached = int((claim.job.progress or {}).get("global_step", 0))
        recoveries = self._checkpoints.of_kind(claim.job.id, RECOVERY)
        found = next((one for one in recoveries if self._bring(one, self._run.resume)), None)
        if found is not None:
            for kept in self._checkpoints.of_kind(claim.job.id, MODEL_CHECKPOINT):
                if kept.step <= found.step:
                    self._bring(kept, self._run.checkpoints / kept.name)
        lost = max(0, reached - (found.step if found else 0))
        start_from = found.id if found else None
        self._insist(lambda: self._attempts.start_from(claim.job.id, claim.token, start_from, lost))
        return found is not None

    def _bring(self, checkpoint: Checkpoint, to: Path) -> bool:
        """Copy a checkpoint out of the store; whether it came whole."""
        to.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            shutil.copyfile(self._store.path(checkpoint.storage_key), to)
        except OSError as error:
            self._log.warning("checkpoint_not_brought", checkpoint_id=checkpoint.id, error=str(error))
            return False
        with to.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == checkpoint.sha256

    def _watch(self) -> Ended:
        claim, config = self._claim, self._config
        started = time.monotonic()
        ends_at = started + max(1.0, claim.job.max_seconds - claim.job.seconds_spent)
        memory_max = (
            claim.job.max_memory_bytes or config.job_max_memory_bytes or int(psutil.virtual_memory().total * 0.9)
        )
        renewed, asked_at, stop_by = started, 0.0, float("inf")
        spoke = False
        while True:
            wait_any(self._forks, TICK_SECONDS)
            now = time.monotonic()
            codes = [fork.exit_code for fork in self._forks]
            if None not in codes or any(code not in (None, 0) for code in codes):
                return Ended.EXITED
            if self._shipper.lost.is_set():
                return Ended.LOST
            if self._shutting_down.is_set():
                return Ended.SHUT_DOWN
            if now > stop_by:
                return Ended.KILLED_BY_REQUEST
            if now > ends_at:
                return Ended.TIMEOUT
            spoke = spoke or self._run.spool.stat().st_size > 0
            if not spoke and now - started > config.start_timeout_seconds:
                return Ended.NEVER_STARTED
            if self._memory_bytes(memory_max) > memory_max:
                return Ended.OUT_OF_MEMORY
            try:
                if now - renewed > config.lease_seconds / 3:
                    self._attempts.renew(claim.job.id, claim.token, config.lease_seconds)
                    renewed = now
                if now - asked_at > ORDERS_SECONDS:
                    asked_at = now
                    orders = self._attempts.orders(claim.job.id, claim.token)
                    if orders.force:
                        return Ended.KILLED_BY_REQUEST
                    if orders.cancel and stop_by == float("inf"):
                        stop_by = now + config.stop_grace_seconds
                        self._run.ask_to_stop()
            except LeaseLost:
                return Ended.LOST
            except SQLAlchemyError as error:
                # Training goes on: nobody else can take the lease while the database is away.
                self._log.warning("database_away", error=str(error).splitlines()[0])

    def _conclude(self, ended: Ended) -> None:
        job_id, token = self._claim.job.id, self._claim.token
        if ended is Ended.LOST:
            self._log.warning("attempt_abandoned")
            return
        if ended is Ended.SHUT_DOWN:
            self._lose(ReasonCode.PREEMPTED, "the worker is shutting down")
            return
        if ended is Ended.NEVER_STARTED:
            self._lose(
                ReasonCode.WORKER_LOST, f"no sign of life within {self._config.start_timeout_seconds:g} s of its start"
            )
            return
        outcome = self._outcome(ended)
        if outcome is None:
            self._lose(ReasonCode.WORKER_LOST, "the trainer was killed from outside (SIGKILL), or its fork server was")
            return
        if self._shipper.error is not None and outcome.status == "succeeded":
            message = f"training ended well, but its files cannot be stored: {self._shipper.error}"
            outcome = Outcome("failed", ReasonCode.OUT_OF_DISK, message)
        settled = outcome.status in ("succeeded", "stopped")  # there is a later checkpoint than the recoveries
        if outcome.status == "stopped":
            self._insist(lambda: self._attempts.tell(job_id, token, "stopped", attempt=self._claim.attempt))
            outcome = Outcome("cancelled", ReasonCode.CANCELLED_BY_USER, "stopped by request between two steps")
        reason = {"code": outcome.code, "message": outcome.message} if outcome.code else None
        if reason and outcome.traceback:
            reason["traceback"] = outcome.traceback
        self._insist(lambda: self._attempts.finish(job_id, token, Status(outcome.status), reason))
        self._log.info("ended", status=outcome.status, code=outcome.code)
        if settled:
            for recovery in self._checkpoints.of_kind(job_id, RECOVERY):
                self._insist(partial(self._checkpoints.forget, recovery, self._store))

    def _outcome(self, ended: Ended) -> Outcome | None:
        """How the run ended, from the strongest witness to the weakest; None: by no fault of its own."""
        if ended is Ended.KILLED_BY_REQUEST:
            message = "killed by request, without a checkpoint of the last steps"
            return Outcome("cancelled", ReasonCode.CANCELLED_BY_USER, message)
        if ended is Ended.TIMEOUT:
            message = f"it ran for longer than limits.max_seconds ({self._claim.job.max_seconds:g} s)"
            return Outcome("failed", ReasonCode.TIMEOUT, message)
        if ended is Ended.OUT_OF_MEMORY or _oom_kills() > self._killed_by_kernel:
            limit = self._claim.job.max_memory_bytes or self._config.job_max_memory_bytes
            told = f"its limit of {limit} bytes" if limit else "what the machine has"
            return Outcome("failed", ReasonCode.OOM, f"the trainer and its children took more memory than {told}")
        said = self._run.read_outcome()
        if said is not None:
            return said
        code = next((fork.exit_code for fork in self._forks if fork.exit_code not in (None, 0, -signal.SIGKILL)), None)
        if code is None or code == FORK_SERVER_DIED:
            only_zero = all(fork.exit_code == 0 for fork in self._forks)
            return self._silent_exit(0) if only_zero else None
        if code > 0:
            return self._silent_exit(code)
        name = signal.Signals(-code).name
        if -code in CRASHES:
            tail = self._run.log_tail(LOG_TAIL_BYTES)
            trace = tail[max(0, tail.rfind("Fatal Python error")) :]  # what faulthandler wrote
            return Outcome("failed", ReasonCode.USER_ERROR, f"the trainer crashed with {name}", trace)
        return Outcome("failed", ReasonCode.USER_ERROR, f"the trainer was ended by {name}")

    def _silent_exit(self, code: int) -> Outcome:
        message = f"the trainer process exited with code {code} before the run had ended (os._exit in the code?)"
        return Outcome("failed", ReasonCode.USER_ERROR, message, self._run.log_tail(LOG_TAIL_BYTES))

    def _lose(self, code: ReasonCode, message: str) -> None:
        retry = Retry(self._config.retry_backoff_seconds, self._config.retry_backoff_max_seconds)
        self._insist(lambda: self._attempts.lose(self._claim.job.id, self._claim.token, code, message, retry))
        self._log.warning("attempt_lost", code=code, detail=message)

    def _kill(self) -> None:
        for fork in self._forks:
            fork.kill()
        for fork in self._forks:
            fork.wait(5.0)

    def _memory_bytes(self, enough_bytes: int) -> int:
        """Memory of the trainers and all their children, what they share counted once; exact only near the limit."""
        resident = proportional = 0
        processes = [process for fork in self._forks for process in _family(fork.pid)]
        for process in processes:
            try:
                resident += process.memory_info().rss
            except psutil.Error:
                continue
        if resident <= enough_bytes:
            return resident
        for process in processes:
            try:
                proportional += process.memory_full_info().pss
            except (psutil.Error, AttributeError):
                continue
        return proportional

    def _insist(self, verb: Callable[[], object]) -> None:
        """Do it once the database is there; give up only when the worker shuts down or the lease is lost."""
        while True:
            try:
                verb()
                return
            except SQLAlchemyError as error:
                self._log.warning("database_away", error=str(error).splitlines()[0])
                if self._shutting_down.wait(DATABASE_RETRY_SECONDS):
                    raise LeaseLost("the worker shut down while the database was away") from error


def _family(pid: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.Error:
        return []


def _oom_kills() -> int:
    """How many processes the kernel has killed for want of memory, in this control group where it tells."""
    for path, word in (("/sys/fs/cgroup/memory.events", "oom_kill"), ("/proc/vmstat", "oom_kill")):
        try:
            for line in Path(path).read_text().splitlines():
                name, _, count = line.partition(" ")
                if name == word:
                    return int(count)
        except (OSError, ValueError):
            continue
    return 0


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
