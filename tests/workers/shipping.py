"""A shipper on a real database and store, fed as a trainer feeds it."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from core.claims import Claim
from core.database import Database
from core.job import Job
from core.settings import Settings
from core.storage import Store
from workers.rundir import Order, RunDir
from workers.ship import Shipper
from workers.trainer.spool import Spool


class Ship:
    """A shipper that runs, and the trainer's ends of what it ships."""

    def __init__(self, database: Database, held: Claim, home: Path, **settings: Any) -> None:
        self.config = Settings(home=home, ship_interval_seconds=0.01, **settings)
        self.run = RunDir(self.config.runs_path / held.job.id / "attempt-1")
        self.run.create(Order(held.job.id, 1, {}, ["cpu:0"], []))
        self.spool = Spool(self.run.spool)
        self.store = Store(self.config.storage)
        self.lost = threading.Event()
        self._database = database
        self._held = held
        self.shipper = self._shipper()
        self.shipper.start()

    def _shipper(self, **places: int) -> Shipper:
        return Shipper(self._database, self.store, self.config, self._held, self.run, self.lost, **places)

    def save(self, name: str, data: bytes, number: int, *, best: bool = False, kind: str = "model_checkpoint") -> None:
        (self.run.outbox / f"{number:06d}").write_bytes(data)
        self.report(name, number, best=best, kind=kind)

    def report(self, name: str, number: int, *, best: bool = False, kind: str = "model_checkpoint") -> None:
        self.spool.checkpoint(
            file=f"{number:06d}", name=name, kind=kind, step=number, epoch=0, metrics={"a": 1.0}, best=best
        )

    def finish(self) -> bool:
        self.spool.flush()
        return self.shipper.finish(threading.Event())

    def succeed(self, **places: int) -> None:
        """Another shipper goes on after this one, which was abandoned with whatever it had not done."""
        self.spool.flush()
        self.shipper.abandon()
        self.shipper = self._shipper(**places)
        self.shipper.start()

    def take_store_away(self) -> Path:
        """Move the store elsewhere; returns where it is."""
        self.store.attach()
        return self.store.root.rename(self.store.root.with_name("elsewhere"))

    def bring_store_back(self) -> None:
        self.store.root.with_name("elsewhere").rename(self.store.root)


@pytest.fixture
def held(submit: Callable[..., Job], worker: Callable[..., str], claim: Callable[..., Claim]) -> Claim:
    submit()
    return claim(worker("cpu:0"))


@pytest.fixture
def start(database: Database, held: Claim, home: Path) -> Iterator[Callable[..., Ship]]:
    """Starts a shipper; keyword arguments are settings."""
    ships: list[Ship] = []

    def begin(**settings: Any) -> Ship:
        ships.append(Ship(database, held, home, **settings))
        return ships[-1]

    yield begin
    for ship in ships:
        ship.shipper.abandon()
