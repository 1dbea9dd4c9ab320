"""A member: the part of an attempt on several machines that runs on one behind the first.

It brings what the run starts from, starts its ranks, keeps its seat, and ends when they do or when it is told to. What
it ships is their log, and how they ended; all else, and what becomes of the job, is the first machine's affair.
"""

import threading
import time
from functools import partial
from typing import Any

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from core.attempts import Attempts
from core.claims import Claim
from core.database import Database
from core.errors import LeaseLost
from core.gangs import Gangs, SeatLease
from core.job import Member as Seated
from core.settings import Settings
from core.states import ReasonCode
from core.storage import Store
from workers.lease import Lease
from workers.order import order_for
from workers.rank_logs import RankLogs, Ranks
from workers.resume import OriginLost, Resume
from workers.rundir import Order, Outcome, RunDir, write_whole
from workers.trainers import TICK_SECONDS, CannotStart, Trainers
from workers.verdict import Ended

LOG_EVERY_SECONDS = 1.0

log = structlog.get_logger()


class Member:
    """Runs one machine's part of an attempt to its end, in the calling thread."""

    def __init__(
        self,
        database: Database,
        store: Store,
        config: Settings,
        claim: Claim,
        seat: Seated,
        threads: int,
        shutting_down: threading.Event,
        address: str,
    ) -> None:
        self._database = database
        self._store = store
        self._config = config
        self._claim = claim
        self._seat = seat
        self._threads = threads
        self._shutting_down = shutting_down
        self._address = address
        self._attempts = Attempts(database)
        self._gangs = Gangs(database)
        self._run = RunDir.of(config.runs_path, claim.job.id, claim.attempt, claim.node_rank)
        lease = SeatLease(database, seat)
        self._lease = Lease(lease, claim, config.lease_seconds, shutting_down, config.stop_grace_seconds)
        self._logs = self._rank_logs(shipped=False)
        self._trainers = Trainers(self._run, config, self._lease)
        self._settled = False
        self._logged_at = 0.0
        self._leave_by = float("inf")
        self._log = log.bind(job_id=claim.job.id, attempt=claim.attempt, node=claim.node_rank)

    def run(self) -> bool:
        """Take part, and say how it ended; whether this worker is fit to start another. No process of it is left."""
        self._lease.start()
        try:
            self._start()
            self._end(self._watch())
        except LeaseLost as lost:
            self._log.warning("attempt_abandoned", detail=str(lost))
        except OriginLost as failure:
            self._say(self._told(Outcome("failed", ReasonCode.CHECKPOINT_LOST, str(failure))))
        except CannotStart as failure:
            self._say(self._lost(str(failure), costs=False))
            return self._shutting_down.is_set()
        except Exception as error:
            self._log.exception("member_failed")
            self._say(self._lost(f"its supervisor failed: {error!r}"))
            return False
        finally:
            self._leave()
        return True

    def adopt(self, held: int) -> None:
        """End the seat of a member whose worker died; `held` is the lock of its run directory."""
        self._trainers.adopt(held)
        self._lease.start()
        self._logs = self._rank_logs(shipped=True)
        try:
            self._end(Ended.EXITED)
        except LeaseLost as lost:
            self._log.warning("attempt_abandoned", detail=str(lost))
        finally:
            self._leave()

    def _start(self) -> None:
        place = self._meeting_place()
        self._trainers.prepare(partial(self._order, place))
        pid = self._trainers.start(self._claim.devices)
        self._log.info("joined", pid=pid, devices=self._claim.devices)

    def _order(self, place: tuple[str, int]) -> Order:
        brought = Resume(self._database, self._store, self._claim, self._run, self._lease).bring()
        write_whole(self._run.rendezvous, place)
        return order_for(self._claim, self._config, self._threads, brought, self._address)

    def _meeting_place(self) -> tuple[str, int]:
        """Where the ranks meet, once the first machine says so; by then it has said what they start from, too."""
        while (place := self._lease.orders.rendezvous) is None:
            if self._lease.orders.dismissed:
                raise CannotStart("the attempt was over before it began")
            if self._shutting_down.is_set():
                raise CannotStart("its worker is shutting down")
            self._lease.pause(TICK_SECONDS / 4)
        host, _, port = place.rpartition(":")
        return host, int(port)

    def _watch(self) -> Ended:
        while not self._trainers.have_ended():
            now = time.monotonic()
            if self._lease.lost.is_set():
                return Ended.LOST
            if self._lease.orders.dismissed:
                return Ended.DISMISSED
            if (exceeded := self._trainers.exceed()) is not None:
                return exceeded
            if self._shutting_down.is_set() and self._leave_by == float("inf"):
                self._leave_by = now + self._config.stop_grace_seconds
                self._lease.insist(partial(self._gangs.leave, self._seat, self._claim.token))
            if now > self._leave_by:
                return Ended.KILLED_BY_REQUEST
            if now - self._logged_at > LOG_EVERY_SECONDS:
                self._ship_log()
        return Ended.EXITED

    def _end(self, ended: Ended) -> None:
        self._trainers.kill()
        if ended is Ended.LOST or self._lease.lost.is_set():
            raise LeaseLost("the attempt is over")
        while self._lease.insist(partial(self._logs.ship, self._may)):
            pass
        self._lease.insist(partial(self._gangs.end, self._seat, self._claim.token, self._verdict(ended)))
        self._settled = True
        self._log.info("left", ended=ended.name)

    def _verdict(self, ended: Ended) -> dict[str, Any]:
        """How it ended, for the first machine to judge by."""
        if ended is Ended.NEVER_STARTED:
            return self._lost(f"no sign of life within {self._config.start_timeout_seconds:g} s of its start")
        if ended is Ended.KILLED_BY_REQUEST:
            return self._lost("killed, for its worker is shutting down and the run did not stop in time")
        said = self._run.read_outcome()
        if ended is Ended.DISMISSED and (said is None or said.status != "failed"):
            return self._told(Outcome("followed"))
        outcome = self._trainers.outcome(ended)
        if outcome is not None:
            return self._told(outcome)
        if said is not None and said.status == "lost":
            return self._told(Outcome("followed", None, said.message))
        return self._lost("its trainer was killed from outside, or its fork server or worker was")

    def _told(self, outcome: Outcome) -> dict[str, Any]:
        code = str(outcome.code) if outcome.code else None
        told = {"status": outcome.status, "code": code, "message": outcome.message, "traceback": outcome.traceback}
        return told | {"data": outcome.data, "costs": True}

    def _lost(self, message: str, *, costs: bool = True) -> dict[str, Any]:
        # What ends because its worker is told to stop, costs no attempt.
        leaves = self._shutting_down.is_set()
        code = ReasonCode.PREEMPTED if leaves else ReasonCode.WORKER_LOST
        return self._told(Outcome("lost", code, message)) | {"costs": costs and not leaves}

    def _say(self, end: dict[str, Any]) -> None:
        self._trainers.kill()
        try:
            self._lease.insist(partial(self._gangs.end, self._seat, self._claim.token, end))
        except LeaseLost as lost:
            self._log.warning("attempt_abandoned", detail=str(lost))

    def _ship_log(self) -> None:
        self._logged_at = time.monotonic()
        try:
            self._logs.ship(self._may)
        except LeaseLost:
            self._lease.lost.set()
        except (SQLAlchemyError, OSError) as error:
            self._log.warning("log_not_shipped", error=str(error).splitlines()[0])

    def _may(self, connection: Connection) -> bool:
        self._attempts.note(connection, self._claim.job.id, self._claim.token)
        return True

    def _rank_logs(self, *, shipped: bool) -> RankLogs:
        claim = self._claim
        ranks = Ranks(claim.first_rank, len(claim.devices), claim.world_size)
        limit = self._config.log_max_bytes
        return RankLogs(self._database, claim.job.id, claim.attempt, self._run, ranks, limit, shipped=shipped)

    def _leave(self) -> None:
        """Leave nothing behind but the run directory, which says whether what is in it has been handed over."""
        self._trainers.kill()
        self._lease.stop()
        self._trainers.leave(settled=self._settled)
