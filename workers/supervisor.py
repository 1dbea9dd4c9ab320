"""The supervisor of one attempt: starts its trainer, watches it, obeys its callers, and says how it ended."""

import contextlib
import threading
import time
from functools import partial
from typing import Any

import structlog

from core.attempts import Attempts, Retry
from core.claims import Claim
from core.database import Database
from core.errors import LeaseLost
from core.settings import Settings
from core.states import ReasonCode, Status
from core.storage import Store
from workers.company import Company
from workers.lease import Lease
from workers.order import order_for
from workers.resume import OriginLost, Resume
from workers.rundir import Control, Order, Outcome, RunDir
from workers.ship import Shipper
from workers.standbys import Standbys
from workers.trainers import CannotStart, Trainers
from workers.verdict import Ended

log = structlog.get_logger()


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
        address: str = "127.0.0.1",
        standbys: Standbys | None = None,
    ) -> None:
        self._config = config
        self._claim = claim
        self._threads = threads
        self._shutting_down = shutting_down
        self._address = address
        self._database = database
        self._store = store
        self._attempts = Attempts(database)
        self._run = RunDir.of(config.runs_path, claim.job.id, claim.attempt)
        self._lease = Lease(self._attempts, claim, config.lease_seconds, shutting_down, config.stop_grace_seconds)
        self._shipper = Shipper(database, store, config, claim, self._run, self._lease.lost)
        self._company = Company(database, claim, self._run, self._lease, address)
        self._trainers = Trainers(self._run, config, self._lease, standbys)
        self._settled = False
        self._asked = Control(saves=claim.job.checkpoint_requests)
        self._log = log.bind(job_id=claim.job.id, attempt=claim.attempt)

    def run(self) -> bool:
        """Train, and record the outcome; whether this worker is fit to start another. No process of it is left."""
        self._lease.start()
        try:
            self._start()
            self._end(self._watch())
        except LeaseLost as lost:
            self._log.warning("attempt_abandoned", detail=str(lost))
        except OriginLost as failure:
            self._fail(Outcome("failed", ReasonCode.CHECKPOINT_LOST, str(failure)))
        except CannotStart as failure:
            self._give_back(str(failure), costs=False)
            return False
        except Exception as error:
            self._log.exception("supervisor_failed")
            self._give_back(f"its supervisor failed: {error!r}")
            return False
        finally:
            self._leave()
        return True

    def adopt(self, held: int) -> None:
        """Bring to its end what another supervisor, which died, had started; `held` is the lock of its run directory.

        What its trainer wrote is shipped; if it had come to its end by then, that counts. Raises `SQLAlchemyError`.
        """
        self._trainers.adopt(held)
        claim = self._claim
        self._lease.start()
        try:
            self._shipper = Shipper(
                self._database,
                self._store,
                self._config,
                claim,
                self._run,
                self._lease.lost,
                offset=claim.spool_offset,
                again=True,
            )
            self._shipper.start()
            self._end(Ended.EXITED)
        except LeaseLost as lost:
            self._log.warning("attempt_abandoned", detail=str(lost))
        finally:
            self._leave()

    def _start(self) -> None:
        claim = self._claim
        self._trainers.prepare(self._order)
        pid = self._trainers.start(claim.devices)
        self._log.info("started", pid=pid, devices=claim.devices)
        tell = partial(self._attempts.tell, claim.job.id, claim.token, "started", attempt=claim.attempt, pid=pid)
        self._lease.insist(tell)
        self._shipper.start()

    def _order(self) -> Order:
        brought = Resume(self._database, self._store, self._claim, self._run, self._lease).bring()
        return order_for(self._claim, self._config, self._threads, brought, self._address)

    def _watch(self) -> Ended:
        stop_by = float("inf")
        while not self._trainers.have_ended():
            now = time.monotonic()
            if self._lease.lost.is_set():
                return Ended.LOST
            self._company.meet()
            if self._company.is_broken:
                return Ended.MEMBER_GONE
            orders = self._lease.orders
            if orders.force or now > stop_by:
                return Ended.KILLED_BY_REQUEST
            if self._trainers.seconds > max(1.0, orders.max_seconds - self._claim.job.seconds_spent):
                return Ended.TIMEOUT
            if (exceeded := self._trainers.exceed()) is not None:
                return exceeded
            control = Control(orders.stop or self._shutting_down.is_set(), orders.saves)
            self._ask(control)
            if not control.stop and not self._asked.stop:
                stop_by = float("inf")
            elif stop_by == float("inf"):
                stop_by = now + self._config.stop_grace_seconds
        return Ended.EXITED

    def _ask(self, control: Control) -> None:
        """Hand on what is asked of the trainer; one that is to stop does nothing else any more."""
        if control == self._asked or self._asked.stop:
            return
        try:
            self._run.ask(control)
        except OSError as error:  # a full disk, say: asked again at the next tick
            self._log.warning("not_asked", error=str(error))
            return
        self._asked = control

    def _end(self, ended: Ended) -> None:
        self._trainers.kill()
        if ended is not Ended.EXITED or any(self._trainers.codes) or not self._trainers.codes:
            self._company.dismiss()
        shipped = self._shipper.finish(self._shutting_down, lambda: self._lease.orders.force)
        self._company.wait(self._config.stop_grace_seconds)
        self._conclude(ended, shipped=shipped)
        self._settled = shipped

    def _conclude(self, ended: Ended, *, shipped: bool) -> None:
        if ended is Ended.LOST or self._lease.lost.is_set():
            raise LeaseLost("another holds the job")
        if ended is Ended.NEVER_STARTED:
            seconds = self._config.start_timeout_seconds
            self._lose(ReasonCode.WORKER_LOST, f"no sign of life within {seconds:g} s of its start")
            return
        if ended is Ended.KILLED_BY_REQUEST:
            self._stopped(f"killed by request, without a checkpoint of the last steps{self._why()}", saved=False)
            return
        outcome = self._outcome(ended)
        # What ends because its worker is told to stop, costs no attempt.
        lost = ReasonCode.PREEMPTED if self._shutting_down.is_set() else ReasonCode.WORKER_LOST
        if outcome is None:
            self._lose_by(lost)
        elif outcome.status == "stopped":
            but = "" if shipped else ", but what it saved could not be stored"
            self._stopped(f"stopped by request between two steps{self._why()}{but}", saved=shipped)
        elif not shipped and outcome.status != "failed" and self._shipper.out_of_space:
            message = f"training ended well, but its files cannot be stored: {self._shipper.error}"
            self._finish(Outcome("failed", ReasonCode.OUT_OF_DISK, message))
        elif not shipped and outcome.status != "failed":
            why = f": {self._shipper.error}" if self._shipper.error else ""
            self._lose(lost, f"what it trained could not be handed over{why}")
        elif outcome.code == ReasonCode.OOM and self._lease.orders.retry_oom:
            self._lose(ReasonCode.OOM, outcome.message or "out of memory")
        elif outcome.status == "lost":  # a download broke off
            self._lose(ReasonCode.DATA_ERROR, outcome.message or "the data could not be prepared")
        else:
            self._finish(outcome)

    def _outcome(self, ended: Ended) -> Outcome | None:
        """How the run ended; None: by no fault of its own."""
        if ended is Ended.TIMEOUT:
            message = f"it ran for longer than limits.max_seconds ({self._lease.orders.max_seconds:g} s)"
            return Outcome("failed", ReasonCode.TIMEOUT, message)
        outcome = self._trainers.outcome(ended)
        if ended in (Ended.OUT_OF_DISK, Ended.OUT_OF_MEMORY):
            return outcome
        outcome = self._company.outcome(outcome)
        if outcome is not None and outcome.status == "stopped" and self._trainers.were_started and not self._asked.stop:
            return Outcome(
                "failed", ReasonCode.USER_ERROR, "the run says that it was stopped, which nobody asked it to"
            )
        return outcome

    def _finish(self, outcome: Outcome) -> None:
        job_id, token = self._claim.job.id, self._claim.token
        reason: dict[str, Any] | None = {"code": outcome.code, "message": outcome.message} if outcome.code else None
        if reason and outcome.traceback:
            reason["traceback"] = outcome.traceback
        if reason and outcome.data:
            reason["data"] = outcome.data
        finish = partial(self._attempts.finish, job_id, token, Status(outcome.status), reason)
        for key in self._lease.insist(finish):
            with contextlib.suppress(OSError):  # what stays is swept
                self._store.delete(key)
        self._log.info("ended", status=outcome.status, code=outcome.code)

    def _fail(self, outcome: Outcome) -> None:
        try:
            self._finish(outcome)
        except LeaseLost as lost:
            self._log.warning("attempt_abandoned", detail=str(lost))

    def _stopped(self, message: str, *, saved: bool) -> None:
        job_id, token = self._claim.job.id, self._claim.token
        status = self._lease.insist(partial(self._attempts.stopped, job_id, token, message, saved=saved))
        self._log.info("stopped", status=status, saved=saved)

    def _why(self) -> str:
        orders = self._lease.orders
        if orders.cancel or orders.pause:
            return ""
        if orders.preempt:
            return ": a job of higher priority has its devices"
        if orders.leaving:
            return ": a worker that takes part in it is shutting down"
        return ": the worker is shutting down" if self._shutting_down.is_set() else ", which was taken back meanwhile"

    def _give_back(self, message: str, *, costs: bool = True) -> None:
        self._trainers.kill()
        try:
            self._lose(ReasonCode.WORKER_LOST, message, costs=costs)
        except LeaseLost as lost:
            self._log.warning("attempt_abandoned", detail=str(lost))

    def _lose_by(self, code: ReasonCode) -> None:
        """Lose the attempt by what its trainer, or a member, says of it."""
        if self._company.loss is not None:
            code, message, costs = self._company.loss
            self._lose(code, message, costs=costs)
            return
        said = self._run.read_outcome()
        message = "the trainer was killed from outside, or its fork server or worker was"
        self._lose(code, (said.message if said and said.status == "lost" else None) or message)

    def _lose(self, code: ReasonCode, message: str, *, costs: bool = True) -> None:
        retry = Retry(self._config.retry_backoff_seconds, self._config.retry_backoff_max_seconds)
        job_id, token = self._claim.job.id, self._claim.token
        self._lease.insist(partial(self._attempts.lose, job_id, token, code, message, retry, costs=costs))
        self._log.warning("attempt_lost", code=code, detail=message)

    def _leave(self) -> None:
        """Leave nothing behind but the run directory, which says whether what is in it has been handed over."""
        self._trainers.kill()
        self._lease.stop()
        self._shipper.abandon()
        self._trainers.leave(settled=self._settled)
