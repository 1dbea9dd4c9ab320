import ipaddress
import subprocess
import sys

import pytest

from core.settings import Settings
from workers.announce import InventoryFailed, chosen_devices, own_address

GPUS = [{"id": f"gpu:{index}", "name": "H100", "memory_bytes": 80 * 2**30} for index in range(3)]
CPU = {"name": "x86_64", "memory_bytes": 2**35}


def ids(gpus: list[dict[str, object]], **settings: object) -> list[str]:
    return [device["id"] for device in chosen_devices(Settings(**settings), gpus, CPU)]  # type: ignore[arg-type]


def test_a_machine_without_gpus_offers_one_slot_and_one_with_gpus_those() -> None:
    assert ids([]) == ["cpu:0"]
    assert ids(GPUS) == ["gpu:0", "gpu:1", "gpu:2"]


def test_the_settings_choose_among_what_is_there() -> None:
    assert ids([], worker_slots=3) == ["cpu:0", "cpu:1", "cpu:2"]
    assert ids(GPUS, worker_devices="gpu:2, gpu:0") == ["gpu:2", "gpu:0"]
    assert ids(GPUS, worker_devices="cpu") == ["cpu:0"]
    assert ids(GPUS, worker_slots=1)[-1] == "cpu:0"


def test_tpus_are_devices_like_gpus() -> None:
    tpus: list[dict[str, object]] = [{"id": "tpu:0", "name": "TPU"}, {"id": "tpu:1", "name": "TPU"}]
    assert ids(tpus) == ["tpu:0", "tpu:1"]
    assert ids(tpus, worker_devices="tpu:1") == ["tpu:1"]


def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(InventoryFailed, match="gpu:7"):
        ids(GPUS, worker_devices="gpu:7")


def test_a_worker_without_any_device_is_refused() -> None:
    with pytest.raises(InventoryFailed, match="LIGHTYARD_WORKER_SLOTS"):
        ids([], worker_slots=0)


KILLED = """
import os, signal, threading
import psutil
from core.settings import Settings
from tests.waiting import wait_until
from workers import forkserver
from workers.announce import take_inventory

def kill():
    server = psutil.Process(wait_until(forkserver._server_pid, what="there is a fork server"))
    wait_until(server.children, what="it has forked")
    server.kill()

killer = threading.Thread(target=kill)
killer.start()
inventory = take_inventory(Settings(catalog_modules="models", worker_devices="cpu"))
killer.join()
assert inventory.catalog.entries
"""


def test_a_worker_whose_fork_server_is_killed_while_it_starts_takes_its_inventory_once_more() -> None:
    done = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("settings", "address"),
    [
        ({}, "127.0.0.1"),
        ({"broker_url": "redis://localhost:6379/0"}, "127.0.0.1"),
        ({"broker_url": "redis://127.0.0.1:6379/0"}, "127.0.0.1"),
        ({"broker_url": "redis://no.such.host.invalid/0"}, "127.0.0.1"),
        ({"broker_url": "redis://localhost/0", "worker_address": "10.1.2.3"}, "10.1.2.3"),
    ],
)
def test_a_worker_is_reached_where_it_reaches_the_broker_from(settings: dict[str, str], address: str) -> None:
    found = own_address(Settings(**settings))
    assert ipaddress.ip_address(found).is_loopback if address == "127.0.0.1" else found == address
