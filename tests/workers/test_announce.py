import pytest

from core.settings import Settings
from workers.announce import InventoryFailed, chosen_devices

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


def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(InventoryFailed, match="gpu:7"):
        ids(GPUS, worker_devices="gpu:7")


def test_a_worker_without_any_device_is_refused() -> None:
    with pytest.raises(InventoryFailed, match="LIGHTYARD_WORKER_SLOTS"):
        ids([], worker_slots=0)
