"""`python -m workers`: one worker process. It warms a fork server, announces itself, then listens for the bell."""

import json
import os
import signal
import sys
import warnings

import structlog
from celery.exceptions import SecurityWarning
from celery.signals import setup_logging, worker_ready, worker_shutting_down
from setproctitle import setproctitle
from sqlalchemy.exc import SQLAlchemyError

from core.bell import queue_of
from core.checkpoints import Checkpoints
from core.database import Database, wait_for
from core.fleet import Fleet
from core.ids import new_id
from core.log import configure
from core.settings import Settings, settings
from core.storage import Store
from workers import forkserver
from workers.announce import InventoryFailed, own_address, take_inventory
from workers.celery_app import make_app
from workers.reconcile import Reconciler
from workers.tasks import Desk, register

TITLE = "lightyard-worker"
SECRETS = ("LIGHTYARD_DATABASE_URL", "LIGHTYARD_BROKER_URL", "LIGHTYARD_STORAGE_URL", "LIGHTYARD_API_KEY")

log = structlog.get_logger()


def main() -> int:
    """Run until told to stop (SIGTERM, SIGINT); the exit status says whether it went well."""
    # Until Celery's own handlers stand: a worker told to stop while it starts signs off all the same.
    signal.signal(signal.SIGTERM, _leave)
    setproctitle(TITLE)
    config = settings()
    configure(config)
    _prepare_environment()
    # A superuser's worker is warned of because of pickle, which this one does not accept.
    warnings.simplefilter("ignore", SecurityWarning)
    forkserver.warm()
    database = Database.of(config)
    wait_for(database)
    worker_id = new_id("wrk")
    try:
        return _serve(config, database, worker_id)
    except InventoryFailed as failure:
        log.error("worker_not_started", detail=str(failure))
        return 1
    finally:
        try:
            Fleet(database).leave(worker_id)
        except SQLAlchemyError as error:
            log.warning("worker_not_signed_off", error=str(error).splitlines()[0])
        database.close()


def _serve(config: Settings, database: Database, worker_id: str) -> int:
    inventory = take_inventory(config)
    fleet = Fleet(database)
    address = own_address(config)
    fleet.join(worker_id, config.worker, os.getpid(), inventory.devices, inventory.versions, address)
    catalog = inventory.catalog
    fleet.announce(worker_id, catalog.digest, json.dumps(catalog.to_json()))
    store = Store(config.storage)
    if Checkpoints(database).any():
        store.expect()  # so that none is made anew where it is not mounted yet
    try:
        store.attach()
    except OSError as error:
        log.warning("store_away", error=str(error))
    desk = Desk(database, store, config, worker_id, inventory, address)
    app = make_app(config)
    register(app, desk)
    reconciler = Reconciler(database, store, config, app, desk)

    @worker_shutting_down.connect(weak=False)
    def _stop(**_: object) -> None:
        desk.shutting_down.set()
        reconciler.stopping.set()

    @worker_ready.connect(weak=False)
    def _ready(**_: object) -> None:
        setproctitle(TITLE)  # Celery has put its own
        reconciler.start()
        log.info("worker_ready", worker_id=worker_id, devices=[device["id"] for device in inventory.devices])

    @setup_logging.connect(weak=False)
    def _keep_logging(**_: object) -> None:
        """Connected so that Celery leaves the logging as it is."""

    kinds = sorted({device["id"].partition(":")[0] for device in inventory.devices})
    worker = app.Worker(
        hostname=f"{config.worker}-{worker_id[-8:]}@lightyard",
        queues=[queue_of("auto"), *(queue_of(kind) for kind in kinds), desk.queue],
        quiet=True,
        without_gossip=True,
        without_mingle=True,
    )
    worker.start()
    return int(worker.exitcode or 0)


def _leave(_signal: int, _frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough
    raise SystemExit(0)


def _prepare_environment() -> None:
    """What the fork server, and so every trainer, inherits.

    The settings are read by now: user code finds no credential in its environment. And where several trainers share
    the cores, OpenMP threads that spin while they wait slow each other down many times; asleep, they compute the same.
    """
    for name in SECRETS:
        os.environ.pop(name, None)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


if __name__ == "__main__":
    sys.exit(main())
