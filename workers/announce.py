"""What a worker tells the fleet of itself: its devices, its versions and the catalogue of what it can run."""

import json
import socket
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import structlog

from core.catalog import Catalog
from core.settings import Settings
from workers.forkserver import Fork

INVENTORY_SECONDS = 300.0
LOCAL = "127.0.0.1"
PROBED_PORT = 9

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Inventory:
    """What this worker has to offer."""

    devices: list[dict[str, Any]]
    versions: dict[str, str]
    catalog: Catalog


class InventoryFailed(Exception):
    """The worker cannot tell what it has, so it cannot take jobs."""


def take_inventory(config: Settings) -> Inventory:
    """Look at this machine and its Python from a fork of the fork server. Raises `InventoryFailed`."""
    with tempfile.TemporaryDirectory(prefix="lightyard-") as folder:
        path = Path(folder) / "inventory.json"
        fork = _look_around(path, config)
        if fork.lost_its_server:  # not by what it looked at: once more
            fork = _look_around(path, config)
        if not path.exists():
            raise InventoryFailed(
                f"looking at what this worker can run failed (exit code {fork.exit_code}); why stands above. "
                "Are torch, pytorch-lightning and the modules of LIGHTYARD_CATALOG_MODULES installed here?"
            )
        told = json.loads(path.read_bytes())
    catalog = Catalog.from_json(told["catalog"])
    for fault in catalog.faults:
        log.error("catalog_module_refused", module=fault.pointer, detail=fault.message)
    return Inventory(
        devices=chosen_devices(config, [*told["gpus"], *told["tpus"]], told["cpu"]),
        versions=told["versions"],
        catalog=catalog,
    )


def _look_around(path: Path, config: Settings) -> Fork:
    try:
        fork = Fork("workers.trainer.inventory", "take_inventory", str(path), list(config.catalog_modules))
    except (OSError, EOFError) as error:
        raise InventoryFailed(f"the fork server gave no process: {error!r}") from error
    fork.wait(INVENTORY_SECONDS)
    fork.kill()
    return fork


def chosen_devices(
    config: Settings, accelerators: Sequence[dict[str, Any]], cpu: dict[str, Any]
) -> list[dict[str, Any]]:
    """The devices to announce: as the settings choose among those that are there. Raises `InventoryFailed`."""
    wanted = config.worker_devices.strip()
    if wanted == "auto":
        chosen = list(accelerators)
    elif wanted == "cpu":
        chosen = []
    else:
        found = {device["id"]: device for device in accelerators}
        names = [name.strip() for name in wanted.split(",") if name.strip()]
        missing = [name for name in names if name not in found]
        if missing:
            raise InventoryFailed(
                f"LIGHTYARD_WORKER_DEVICES names {', '.join(missing)}, which is not here; "
                f"it has {', '.join(found) or 'no GPU or TPU'}"
            )
        chosen = [found[name] for name in names]
    slots = config.worker_slots
    if slots is None:
        slots = 0 if chosen else 1
    chosen += [{"id": f"cpu:{index}", **cpu} for index in range(slots)]
    if not chosen:
        raise InventoryFailed(
            "this worker would have no device: raise LIGHTYARD_WORKER_SLOTS or LIGHTYARD_WORKER_DEVICES"
        )
    return chosen


def own_address(config: Settings) -> str:
    """The address at which other machines reach this one: as set, or from which this one reaches the broker.

    Where the broker is on this machine, that is one which no other machine reaches: nothing is opened to a network
    unless this worker is part of one.
    """
    if config.worker_address:
        return config.worker_address
    host = urlsplit(config.broker).hostname
    if host is None:  # a Unix socket
        return LOCAL
    try:
        (family, *_, place), *_ = socket.getaddrinfo(host, PROBED_PORT, type=socket.SOCK_DGRAM)
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(place)  # sends nothing: it only chooses the way
            address: str = probe.getsockname()[0]
            return address
    except OSError as error:
        log.warning("own_address_unknown", broker_host=host, error=str(error))
        return LOCAL
