"""What no worker that is up can give a job, held against what workers of every kind announce."""

from typing import Any

import pytest

from core.availability import unavailable
from core.devices import Host

CPU = Host([{"id": "cpu:0"}, {"id": "cpu:1"}], {"torch": "2.13.0"})
T4 = Host([{"id": "gpu:0", "name": "Tesla T4", "compute_capability": "7.5"}], {})
A100 = Host([{"id": f"gpu:{index}", "name": "A100", "compute_capability": "8.0"} for index in range(4)], {})
H100 = Host([{"id": "gpu:0", "name": "H100", "compute_capability": "9.0"}], {"transformer_engine": "2.0"})
OLD = Host([{"id": "gpu:0", "name": "V100"}], {})
"""Of a worker of an earlier release, which did not say what its devices can."""
TPU = Host([{"id": "tpu:0", "name": "TPU"}], {"torch_xla": "2.9.0"})


def faults(hosts: list[Host], when: str | None = None, **flags: Any) -> list[tuple[str, str, str]]:
    found = unavailable({"trainer": flags}, when, hosts, "/config")
    return [(fault.pointer.removeprefix("/config/trainer/"), fault.code, fault.message) for fault in found]


def pointers(hosts: list[Host], when: str | None = None, **flags: Any) -> list[tuple[str, str]]:
    return [(pointer, code) for pointer, code, _ in faults(hosts, when, **flags)]


@pytest.mark.parametrize(
    ("hosts", "flags", "missing"),
    [
        ([], {}, "accelerator"),
        ([CPU], {"accelerator": "gpu"}, "accelerator"),
        ([CPU], {"accelerator": "cuda"}, "accelerator"),
        ([CPU, A100], {"accelerator": "tpu"}, "accelerator"),
        ([CPU, T4], {"accelerator": "gpu", "devices": 2}, "devices"),
        ([CPU, A100], {"accelerator": "cpu", "devices": 3}, "devices"),
        ([A100, T4], {"accelerator": "gpu", "devices": 2, "num_nodes": 2}, "num_nodes"),
    ],
)
def test_devices_that_no_worker_has_are_a_fault_only_where_the_job_is_not_to_wait(
    hosts: list[Host], flags: dict[str, Any], missing: str
) -> None:
    assert pointers(hosts, "refuse", **flags) == [(missing, "no_such_device")]
    assert pointers(hosts, "wait", **flags) == []
    assert pointers(hosts, None, **flags) == []


def test_devices_that_some_worker_has_are_no_fault() -> None:
    assert pointers([CPU, A100], "refuse", accelerator="gpu", devices=4) == []
    assert pointers([CPU], "refuse", accelerator="auto") == []
    assert pointers([A100, T4], "refuse", accelerator="gpu", num_nodes=2) == []


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "bf16"])
def test_bfloat16_is_refused_where_every_gpu_has_said_that_it_is_too_old(precision: str) -> None:
    ((pointer, code, message),) = faults([T4], accelerator="gpu", precision=precision)
    assert (pointer, code) == ("precision", "unsupported_precision")
    assert "Tesla T4 has compute capability 7.5, and bfloat16 needs 8.0" in message
    assert pointers([T4, A100], accelerator="gpu", precision=precision) == [], "one that has it is enough"
    assert pointers([T4, OLD], accelerator="gpu", precision=precision) == [], "one that did not say may have it"
    assert pointers([CPU], accelerator="cpu", precision=precision) == []


def test_transformer_engine_needs_its_package_and_a_gpu_with_8_bit_floats() -> None:
    assert pointers([H100], accelerator="gpu", precision="transformer-engine") == []
    for host, why in ((A100, "is not installed"), (CPU, "needs an NVIDIA GPU")):
        ((_, _, message),) = faults([host], accelerator="auto", precision="transformer-engine-float16")
        assert why in message
    ada = Host(A100.devices, {"transformer_engine": "2.0"})
    ((_, _, message),) = faults([ada], accelerator="gpu", precision="transformer-engine")
    assert "8-bit floats need 8.9" in message


def test_a_tpu_has_the_precisions_of_xla_and_no_other() -> None:
    for precision in ("16-mixed", "bf16-mixed", 64):
        assert pointers([TPU], accelerator="tpu", precision=precision) == [("precision", "unsupported_precision")]
    for precision in (None, 32, "bf16-true", "16-true"):
        assert pointers([TPU], accelerator="tpu", precision=precision) == []


def test_the_precision_of_a_job_that_waits_for_its_devices_is_not_judged() -> None:
    assert pointers([T4], accelerator="gpu", devices=2, precision="bf16-mixed") == []
