"""The logs of the ranks that run on one machine, shipped side by side; the first rank's is the job's own."""

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Connection

from core.database import Database
from core.logs import CHUNK_BYTES, Logs
from workers.rundir import RunDir
from workers.transcript import Transcript


@dataclass(frozen=True, slots=True)
class Ranks:
    """The ranks on one machine: `count` from `first` on, of `world_size` in all."""

    first: int
    count: int
    world_size: int


class RankLogs:
    """Ships what the ranks of one machine print.

    The job's first rank may print `limit_bytes` in an attempt, all behind it together as much again, in equal parts.
    """

    def __init__(
        self,
        database: Database,
        job_id: str,
        attempt: int,
        run: RunDir,
        ranks: Ranks,
        limit_bytes: int,
        *,
        shipped: bool = False,
    ) -> None:
        self._database = database
        self._logs = Logs(database)
        self._job_id = job_id
        self._attempt = attempt
        share = max(CHUNK_BYTES, limit_bytes // max(1, ranks.world_size - 1))
        self._transcripts = {
            rank: Transcript(
                run.log_of(rank - ranks.first),
                self._logs.size(job_id, attempt, rank=rank) if shipped else 0,
                share if rank else limit_bytes,
            )
            for rank in range(ranks.first, ranks.first + ranks.count)
        }

    def waiting_bytes(self) -> int:
        """The most that waits of any rank."""
        return max(transcript.waiting_bytes() for transcript in self._transcripts.values())

    def ship(self, may: Callable[[Connection], bool]) -> bool:
        """Ship a piece of each that has one; whether there is more.

        `may` is asked in each transaction whether the attempt may write, and may raise. Raises `OSError` and
        `SQLAlchemyError`; then it is done again.
        """
        for rank, transcript in self._transcripts.items():
            if not transcript.waiting_bytes():
                continue
            piece = transcript.read()
            with self._database.write() as connection:
                if not may(connection):
                    return False
                self._logs.add(connection, self._job_id, self._attempt, piece.offset, piece.told, rank=rank)
            transcript.done(piece)
        return self.waiting_bytes() > 0
