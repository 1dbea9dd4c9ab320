"""The other machines of an attempt on several, as the supervisor on the first of them sees and leads them."""

import time
from collections.abc import Sequence
from functools import partial

from core.attempts import Attempts
from core.claims import Claim
from core.database import Database
from core.gangs import Gangs
from core.job import Member
from core.states import ReasonCode, Seat
from workers.lease import Lease
from workers.rundir import Outcome, RunDir

LOOK_SECONDS = 0.1
WELL = ("succeeded", "stopped")


class Company:
    """Tells the members where to meet, sees when one is gone, and has all of them end with the attempt.

    Of a job on one machine there are none, and nothing is done.
    """

    def __init__(self, database: Database, claim: Claim, run: RunDir, lease: Lease, address: str) -> None:
        self._gangs = Gangs(database)
        self._attempts = Attempts(database)
        self._claim = claim
        self._run = run
        self._lease = lease
        self._address = address
        self._met = self._dismissed = claim.job.nodes == 1
        self._ends: Sequence[Member] = ()

    @property
    def is_broken(self) -> bool:
        """Whether a member has ended otherwise than it should: the ranks that are left can only wait."""
        return any(member.state is Seat.ENDED and _status(member) not in WELL for member in self._lease.orders.members)

    def meet(self) -> None:
        """Tell the members where the ranks meet, once the first rank is there. Raises `LeaseLost`."""
        if self._met or (place := self._run.read_rendezvous()) is None:
            return
        # The address is the worker's own: what lies in the run directory user code may have written.
        where = f"{self._address}:{place[1]}"
        self._lease.insist(partial(self._gangs.meet, self._claim.job.id, self._claim.token, where))
        self._met = True

    def dismiss(self) -> None:
        """Have the members end. Raises `LeaseLost`."""
        if not self._dismissed:
            self._lease.insist(partial(self._gangs.dismiss, self._claim.job.id, self._claim.token))
            self._dismissed = True

    def wait(self, grace_seconds: float) -> None:
        """Wait until all have ended, by themselves at first, then dismissed. Raises `LeaseLost`.

        One that is silent loses the attempt its lease, unless the grace is over before that.
        """
        if self._claim.job.nodes == 1:
            return
        began = time.monotonic()
        while True:
            orders = partial(self._attempts.orders, self._claim.job.id, self._claim.token)
            self._ends = self._lease.insist(orders).members
            late = time.monotonic() - began > grace_seconds
            if all(member.state is Seat.ENDED for member in self._ends) or (late and self._dismissed):
                return
            if late:
                self.dismiss()
                began = time.monotonic()
            self._lease.pause(LOOK_SECONDS)

    def outcome(self, own: Outcome | None) -> Outcome | None:
        """How the run ended on all machines, by how it ended on the first; None: by no fault of its own."""
        lost = any(_status(member) == "lost" for member in self._ends)
        if own is not None and own.status == "failed":
            # Who loses another machine may raise anything; what went wrong there counts.
            return None if lost else own
        for member in self._ends:
            if _status(member) == "failed" and member.end is not None:
                said = member.end
                message = f"on {member.worker} (node {member.node_rank}): {said['message']}"
                return Outcome("failed", said["code"], message, said["traceback"], said.get("data"))
        return own

    @property
    def loss(self) -> tuple[ReasonCode, str, bool] | None:
        """Why the attempt is lost where a member is why: code, message, and whether it costs an attempt."""
        for member in self._ends:
            if _status(member) == "lost":
                end = member.end or {"message": "its worker did not say how it ended"}
                code = ReasonCode(end.get("code") or ReasonCode.WORKER_LOST)
                message = f"on {member.worker} (node {member.node_rank}): {end['message']}"
                return code, message, bool(end.get("costs", True))
        return None


def _status(member: Member) -> str:
    """How a member ended: as its trainer did, `followed` where others had ended before; `lost` where nobody says."""
    return str(member.end["status"]) if member.end is not None else "lost"
