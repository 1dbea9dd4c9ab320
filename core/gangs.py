"""Gangs: what the machines of an attempt on several tell each other, under the attempt's fencing token.

The machine that claimed is the leader: it says where to meet, and how the attempt ends. The others are its members.
Each holds its seat under a lease of its own; whichever expires, the attempt is over on all of them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, select, update

from core.attempts import Attempts
from core.claims import Claim
from core.database import Database
from core.errors import LeaseLost
from core.job import Member, members_of, read_job
from core.jobs import touch
from core.orders import Orders, orders_of
from core.states import Seat
from core.tables import attempts, members

END_OF_THE_ABSENT = {"status": "lost", "code": None, "traceback": None, "costs": False}


class Gangs:
    """The store of members. Each verb is one transaction; what a gang writes carries the token of its attempt."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # What the leader does

    def meet(self, job_id: str, token: str, rendezvous: str) -> None:
        """Say where (host:port) the ranks of all machines meet. Raises `LeaseLost`."""
        self._set(job_id, token, rendezvous=rendezvous)

    def dismiss(self, job_id: str, token: str) -> None:
        """Have all members end. Raises `LeaseLost`."""
        self._set(job_id, token, dismissed=True)

    # What a member does

    def answer(self, worker_id: str) -> tuple[Claim, Member] | None:
        """Take a seat to which a worker was called; None: there is none."""
        for member, token in self._called(worker_id):
            try:
                with self._database.write() as connection:
                    touch(connection, member.job_id, token=token)
                    if _seat(connection, member, Seat.CALLED, state=Seat.JOINED, renewals=members.c.renewals + 1):
                        return _claim(connection, member, token), member
            except LeaseLost:  # over before it was heard of
                continue
        return None

    def is_called(self, worker_id: str) -> bool:
        """Whether a worker has been called and not answered."""
        return bool(self._called(worker_id))

    def decline(self, worker_id: str, why: str) -> Sequence[str]:
        """Refuse all seats to which a worker was called, for it cannot take them; returns the jobs."""
        refused = []
        for member, token in self._called(worker_id):
            end = END_OF_THE_ABSENT | {"message": f"worker {member.worker} did not join: {why}"}
            try:
                self.end(member, token, end)
            except LeaseLost:
                continue
            refused.append(member.job_id)
        return refused

    def leave(self, member: Member, token: str) -> None:
        """Say that a member's worker is told to stop: all are to save and stop. Raises `LeaseLost`."""
        with self._database.write() as connection:
            touch(connection, member.job_id, token=token)
            _seat(connection, member, Seat.JOINED, state=Seat.LEAVING)

    def end(self, member: Member, token: str, end: Mapping[str, Any]) -> None:
        """Say how a member ended, as its worker saw it. The first word counts. Raises `LeaseLost`."""
        with self._database.write() as connection:
            touch(connection, member.job_id, token=token)
            _seat(connection, member, Seat.CALLED, Seat.JOINED, Seat.LEAVING, state=Seat.ENDED, end=dict(end))

    def held(self, job_id: str, number: int, node_rank: int) -> tuple[Claim, Member] | None:
        """The seat of a member that has not ended, in an attempt that is under way; None: there is none."""
        with self._database.read() as connection:
            its = (members.c.job_id == job_id) & (members.c.attempt == number) & (members.c.node_rank == node_rank)
            found = members_of(connection, its & (members.c.state != Seat.ENDED))
            live = select(attempts.c.token).where(
                attempts.c.job_id == job_id, attempts.c.number == number, attempts.c.ended_at.is_(None)
            )
            token = connection.execute(live).scalar_one_or_none()
            return (_claim(connection, found[0], token), found[0]) if found and token is not None else None

    def _set(self, job_id: str, token: str, **values: Any) -> None:
        with self._database.write() as connection:
            touch(connection, job_id, token=token)
            connection.execute(update(attempts).where(attempts.c.token == token).values(**values))

    def _called(self, worker_id: str) -> Sequence[tuple[Member, str]]:
        """The seats that wait for a worker's answer, with the tokens of their attempts."""
        with self._database.read() as connection:
            waiting = members_of(connection, (members.c.worker_id == worker_id) & (members.c.state == Seat.CALLED))
            if not waiting:
                return []
            live = select(attempts.c.job_id, attempts.c.number, attempts.c.token).where(
                attempts.c.job_id.in_([one.job_id for one in waiting]), attempts.c.ended_at.is_(None)
            )
            tokens = {(row.job_id, row.number): row.token for row in connection.execute(live)}
        return [(one, tokens[one.job_id, one.attempt]) for one in waiting if (one.job_id, one.attempt) in tokens]


class SeatLease:
    """A member's lease, renewed and read as an attempt's is."""

    def __init__(self, database: Database, member: Member) -> None:
        self._database = database
        self._attempts = Attempts(database)
        self._member = member

    def renew(self, job_id: str, token: str) -> Orders:
        """Keep the seat, and learn what is asked. Raises `LeaseLost`."""
        with self._database.write() as connection:
            asked = orders_of(connection, job_id, token)
            states = (Seat.JOINED, Seat.LEAVING)
            if not _seat(connection, self._member, *states, renewals=members.c.renewals + 1):
                raise LeaseLost(f"{job_id}: this member's seat is not its own any more")
            return asked

    def orders(self, job_id: str, token: str) -> Orders:
        """What is asked of all machines. Raises `LeaseLost`."""
        return self._attempts.orders(job_id, token)


def _seat(connection: Connection, member: Member, *states: Seat, **values: Any) -> bool:
    """Change a seat that is in one of these states; whether it was."""
    here = (
        (members.c.job_id == member.job_id)
        & (members.c.attempt == member.attempt)
        & (members.c.node_rank == member.node_rank)
    )
    done = connection.execute(update(members).where(here, members.c.state.in_(states)).values(**values))
    return bool(done.rowcount)


def _claim(connection: Connection, member: Member, token: str) -> Claim:
    job = read_job(connection, member.job_id)
    return Claim(job, member.attempt, token, member.devices, node_rank=member.node_rank)
