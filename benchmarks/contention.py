"""64 claimers at once on 100,000 queued jobs: none is given twice, and nobody goes without.

Each claimer is a worker with free devices of its own, in a thread of one of a few processes. They claim as workers do,
by `core.claims`, one job after the other, until their devices are taken; then all devices are given back at once, and
the next round begins.
"""

import multiprocessing
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import delete, select, update

from benchmarks.claimers import claim_all
from benchmarks.figure import Figure, percentile
from benchmarks.population import Population, fill
from benchmarks.servers import postgres, tables
from core.database import Database, upgrade
from core.fleet import Fleet
from core.ids import new_id
from core.security import authenticate, first_start
from core.states import Status
from core.tables import attempts, device_claims, jobs

CLAIMERS = 64
PROCESSES = 4
QUEUED = 100_000
DEVICES = 40
"""Of each claimer: how many jobs it can have at once."""
ROUNDS = 2
ROUND_SECONDS = 8.0
"""A round ends then, if not all devices are taken."""
AIM_CLAIMS_PER_SECOND = 500.0
EVEN_SHARE = 0.5
"""Of what the busiest claimer has, by the time that it has all it can have: whoever has less went without."""


@dataclass(frozen=True, slots=True)
class Round:
    """What came of one round. `claims` are (claimer, job, moment in monotonic seconds, seconds that it took)."""

    claims: Sequence[tuple[int, str, float, float]]
    seconds: float

    @property
    def rate(self) -> float:
        """Claims a second, of all together."""
        return len(self.claims) / self.seconds

    @property
    def waits(self) -> list[float]:
        """Milliseconds that each claim took."""
        return [seconds * 1000 for *_, seconds in self.claims]

    @property
    def least_share(self) -> float:
        """What the slowest claimer had by the time that the first one had all it can have, by what that one had."""
        last = [max(at for claimer, _, at, _ in self.claims if claimer == one) for one in range(CLAIMERS)]
        counts = Counter(claimer for claimer, _, at, _ in self.claims if at <= min(last))
        return min(counts[one] for one in range(CLAIMERS)) / max(counts.values())


def measure(folder: Path) -> list[Figure]:
    """Rounds on PostgreSQL, and one on SQLite."""
    with tables(postgres(), folder) as (database, url, key):
        fill(database, authenticate(database, key).project_id, Population(QUEUED, QUEUED, 0))
        rounds = _rounds(database, url, ROUNDS)
    embedded = f"sqlite:///{folder / 'lightyard.db'}"
    with closing(Database(embedded)) as database:
        upgrade(database)
        first_start(database, folder / "embedded" / "key")
        project_id = authenticate(database, (folder / "embedded" / "key").read_text().strip()).project_id
        fill(database, project_id, Population(QUEUED, QUEUED, 0))
        on_sqlite = _rounds(database, embedded, 1)
    rates, shares = [one.rate for one in rounds], [one.least_share for one in rounds]
    waits = [wait for one in rounds for wait in one.waits]
    return [
        Figure(
            11,
            f"claims by {CLAIMERS} claimers on {QUEUED:,} queued jobs; PostgreSQL, fsync on",
            "claims/s",
            rates,
            aim=f"≥ {AIM_CLAIMS_PER_SECOND:g}/s, no double",
            met=min(rates) >= AIM_CLAIMS_PER_SECOND,
            note=f"claimers and PostgreSQL share the cores; {len(waits):,} claims, no job twice",
        ),
        Figure(
            11,
            "longest wait for a claim there, of each round",
            "ms",
            [max(one.waits) for one in rounds],
            aim="no claim starves",
            met=min(shares) >= EVEN_SHARE,
            note=f"median {percentile(waits, 0.5):.0f} ms; the slowest claimer had {min(shares):.2f} of the fastest's",
        ),
        Figure(
            11,
            f"claims by {CLAIMERS} claimers on {QUEUED:,} queued jobs; SQLite, synchronous=FULL",
            "claims/s",
            [one.rate for one in on_sqlite],
            note=f"one writer at a time; longest wait {max(on_sqlite[0].waits):,.0f} ms",
        ),
    ]


def _rounds(database: Database, url: str, count: int) -> list[Round]:
    found, seen = [], Counter[str]()
    for _ in range(count):
        one = _round(database, url)
        seen.update(job for _, job, *_ in one.claims)
        _check(database, one)
        _give_back(database)
        found.append(one)
    assert max(seen.values()) == 1, f"claimed twice: {seen.most_common(3)}"
    return found


def _round(database: Database, url: str) -> Round:
    worker_ids = [_join(database, f"box-{number}") for number in range(CLAIMERS)]
    context = multiprocessing.get_context("spawn")
    shares = [list(enumerate(worker_ids))[start::PROCESSES] for start in range(PROCESSES)]
    barrier, answers = context.Barrier(PROCESSES), context.Queue()
    claimers = [
        context.Process(target=claim_all, args=(url, share, barrier, answers, DEVICES, ROUND_SECONDS))
        for share in shares
    ]
    for process in claimers:
        process.start()
    try:
        told = [answers.get(timeout=10 * ROUND_SECONDS) for _ in claimers]
    finally:
        for process in claimers:
            process.join(ROUND_SECONDS)
            process.kill()
    claims = [claim for some in told for claim in some[1]]
    return Round(claims, max(at for _, _, at, _ in claims) - min(began for began, _ in told))


def _join(database: Database, name: str) -> str:
    worker_id = new_id("wrk")
    devices = [{"id": f"gpu:{index}", "name": "GPU", "memory_bytes": 80 * 2**30} for index in range(DEVICES)]
    Fleet(database).join(worker_id, name, 1, devices, {"torch": "2.13.0", "pytorch_lightning": "2.6.6"})
    return worker_id


def _check(database: Database, one: Round) -> None:
    """What the claimers were given is what the database says, each job and each device once."""
    with database.read() as connection:
        live = connection.execute(select(attempts.c.job_id).where(attempts.c.ended_at.is_(None))).scalars().all()
        held = connection.execute(select(device_claims.c.job_id)).scalars().all()
    given = sorted(job for _, job, *_ in one.claims)
    assert sorted(live) == given, "the attempts are not those that were given"
    assert sorted(held) == given, "the devices are not those that were given"


def _give_back(database: Database) -> None:
    """End all that runs."""
    with database.write() as connection:
        now = database.now(connection)
        connection.execute(delete(device_claims))
        connection.execute(update(attempts).where(attempts.c.ended_at.is_(None)).values(ended_at=now))
        running = jobs.c.status == Status.RUNNING
        connection.execute(update(jobs).where(running).values(status=Status.SUCCEEDED, token=None, finished_at=now))
