"""One API process with production's settings, on a database, and the catalogue of a worker that takes no jobs."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import httpx
import orjson

from core.catalog import Catalog
from core.database import Database
from core.fleet import Fleet
from core.ids import new_id
from embedded.home import free_port
from embedded.lineage import bound_to_parent
from tests.waiting import wait_until

HOST = "127.0.0.1"
START_SECONDS = 60.0
STOP_SECONDS = 30.0
SILENCE_SECONDS = "86400"
"""The worker that announced the catalogue is not there to say so again."""


@cache
def catalog() -> Catalog:
    """What a worker with the models that come along announces; asked of a process of its own, which imports torch."""
    with tempfile.TemporaryDirectory(prefix="lightyard-bench-") as folder:
        path = Path(folder) / "inventory.json"
        ask = f"from workers.trainer.inventory import take_inventory as take; take({str(path)!r}, ['models'])"
        subprocess.run([sys.executable, "-c", ask], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return Catalog.from_json(orjson.loads(path.read_bytes())["catalog"])


def announce(database: Database, devices: int = 8) -> None:
    """Put a worker with GPUs into the fleet, and with it the catalogue."""
    fleet, worker_id = Fleet(database), new_id("wrk")
    gpus = [{"id": f"gpu:{index}", "name": "GPU", "memory_bytes": 80 * 2**30} for index in range(devices)]
    fleet.join(worker_id, "box", 1, gpus, {"torch": "2.13.0", "pytorch_lightning": "2.6.6"})
    announced = catalog()
    fleet.announce(worker_id, announced.digest, orjson.dumps(announced.to_json()).decode())


@contextmanager
def api(database_url: str, broker_url: str, folder: Path, **settings: str) -> Iterator[str]:
    """Address of an API process on a database with our tables; its log goes to a file in `folder`."""
    port = free_port(HOST)
    address = f"http://{HOST}:{port}"
    environment = {
        "LIGHTYARD_HOME": str(folder),
        "LIGHTYARD_HOST": HOST,
        "LIGHTYARD_PORT": str(port),
        "LIGHTYARD_DATABASE_URL": database_url,
        "LIGHTYARD_BROKER_URL": broker_url,
        "LIGHTYARD_WORKER_SILENCE_SECONDS": SILENCE_SECONDS,
        "LIGHTYARD_LOG_FORMAT": "json",
    }
    with (folder / f"api-{port}.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "app"],
            env=os.environ | environment | settings,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=bound_to_parent(),
        )

    def answers() -> bool:
        assert process.poll() is None, (folder / f"api-{port}.log").read_text()[-2000:]
        try:
            return httpx.get(f"{address}/readyz", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    try:
        wait_until(answers, what="the API answers", deadline_seconds=START_SECONDS)
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
