"""Servers that go away or stand still, and lines to them that are cut or stalled."""

import random
import sqlite3

from redis.exceptions import RedisError

from tests.faults.faults import Fault, Ground, Hit, NotNow
from tests.faults.kills import freeze, jobs_of, resume
from tests.faults.network import State
from tests.faults.schedule import Draw
from tests.faults.world import WORKERS


class BrokerKill(Fault):
    """kill -9 of the broker, which comes back."""

    kind = "broker_kill"
    draw = Draw(1.0, (0.2, 4.0))

    def inject(self, ground: Ground) -> Hit:
        hit = Hit("broker", jobs_of(ground.world.trainers()))
        ground.world.kill_broker()
        return hit

    def heal(self, ground: Ground, hit: Hit) -> None:
        ground.world.start_broker()


class BrokerFlush(Fault):
    """FLUSHALL: every message and every binding is gone."""

    kind = "broker_flush"
    draw = Draw(1.0)

    def inject(self, ground: Ground) -> Hit:
        try:
            ground.world.stack.flush_broker()
        except (OSError, RedisError) as error:
            raise NotNow("the broker is away, or stands still") from error
        return Hit("broker")


class DatabaseKill(Fault):
    """kill -9 of PostgreSQL's first process; it comes back."""

    kind = "database_kill"
    draw = Draw(1.5, (0.2, 6.0))
    backends = ("production",)

    def inject(self, ground: Ground) -> Hit:
        hit = Hit("PostgreSQL", jobs_of(ground.world.trainers()))
        ground.world.kill_postgres()
        return hit

    def heal(self, ground: Ground, hit: Hit) -> None:
        ground.world.start_postgres()


class DatabaseLock(Fault):
    """Another process holds SQLite's write lock."""

    kind = "database_lock"
    draw = Draw(1.5, (0.5, 6.0))
    backends = ("embedded",)

    def inject(self, ground: Ground) -> Hit:
        jobs = jobs_of(ground.world.trainers())
        connection = sqlite3.connect(ground.world.sqlite, timeout=1.0, isolation_level=None)
        try:
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            connection.close()
            raise NotNow("the database is locked already") from error
        return Hit("SQLite", jobs, state={"connection": connection})

    def heal(self, ground: Ground, hit: Hit) -> None:
        hit.state["connection"].execute("ROLLBACK")
        hit.state["connection"].close()


class _Freeze(Fault):
    """SIGSTOP to a server: it takes calls and answers none, then all at once. Nothing comes of it."""

    server: str

    def inject(self, ground: Ground) -> Hit:
        jobs, family = jobs_of(ground.world.trainers()), ground.world.server(self.server)
        if not family:
            raise NotNow(f"there is no {self.server} up")
        hit = Hit(self.server, jobs, state={"family": family})
        freeze(family)
        return hit

    def heal(self, ground: Ground, hit: Hit) -> None:
        resume(hit.state["family"])


class ApiFreeze(_Freeze):
    """SIGSTOP to the API."""

    kind = "api_freeze"
    draw = Draw(0.7, (0.5, 4.0))
    server = "api"


class BrokerFreeze(_Freeze):
    """SIGSTOP to the broker."""

    kind = "broker_freeze"
    draw = Draw(0.7, (0.5, 6.0))
    server = "broker"


class DatabaseFreeze(_Freeze):
    """SIGSTOP to PostgreSQL and all below it, for longer than a lease: nobody can renew one, and nobody loses one."""

    kind = "database_freeze"
    draw = Draw(1.0, (0.5, 6.0))
    backends = ("production",)
    server = "database"


class _Network(Fault):
    """Some of the lines between processes and servers do not carry."""

    backends = ("production",)
    state: State

    def inject(self, ground: Ground) -> Hit:
        chance = random.Random(self.planned.pick)
        who = chance.choice([("api",), ("worker-1",), ("worker-2",), ("worker-1",), ("worker-2",), ("api", *WORKERS)])
        parts = chance.choice([("database",), ("database",), ("broker",), ("database", "broker")])
        lines = [ground.world.lines[name][part] for name in who for part in parts]
        cut_off = who if "database" in parts else ()
        workers = [worker for worker in WORKERS if worker in cut_off]
        jobs = [trainer for worker in workers for trainer in ground.world.trainers(worker)]
        what = f"{' and '.join(parts)} of {', '.join(who)}"
        hit = Hit(what, jobs_of(jobs), frozenset(workers), {"lines": lines})
        for line in lines:
            line.set(self.state)
        return hit

    def heal(self, ground: Ground, hit: Hit) -> None:
        for line in hit.state["lines"]:
            line.set(State.OPEN)


class NetworkCut(_Network):
    """Connections are reset, new ones at once. A worker may be cut off for longer than its lease."""

    kind = "network_cut"
    draw = Draw(1.5, (0.5, 6.0))
    costs = zombies = True
    state = State.CUT


class NetworkStall(_Network):
    """Nothing passes, then all of it arrives. A worker may be cut off for longer than its lease."""

    kind = "network_stall"
    draw = Draw(1.5, (0.5, 6.0))
    costs = zombies = True
    state = State.STALLED


KINDS = [
    BrokerKill,
    BrokerFlush,
    DatabaseKill,
    DatabaseLock,
    ApiFreeze,
    BrokerFreeze,
    DatabaseFreeze,
    NetworkCut,
    NetworkStall,
]
