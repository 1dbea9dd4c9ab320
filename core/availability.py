"""What a job asks for, held against what the workers that are up have announced: devices, and precisions they lack."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from core.defaults import Request, request
from core.devices import Host, free_by_kind, offered
from core.errors import Fault
from core.precision import precision_of, why_lacking

REFUSE = "refuse"


def unavailable(
    config: Mapping[str, Any], when_unavailable: str | None, hosts: Sequence[Host], pointer: str
) -> Iterator[Fault]:
    """What no worker that is up can give a valid config. `pointer` is where in the body the config stands.

    Too few devices are a fault only where the job is not to wait for them. A precision is one where every worker that
    has the devices has announced that it lacks it; what was not announced is not known, and no fault.
    """
    asked = request(config)
    fitting = [host for host in hosts if 0 < asked.devices <= len(_devices(host, asked))]
    if len(fitting) < asked.num_nodes:
        if when_unavailable == REFUSE:
            yield _no_device(asked, hosts, len(fitting), f"{pointer}/trainer")
        return
    precision = precision_of(config.get("trainer") or {})
    reasons = [_lack(host, asked, precision) for host in fitting]
    if all(reasons):
        message = f"No worker that is up can train with {precision}: {reasons[0]}."
        yield Fault(f"{pointer}/trainer/precision", "unsupported_precision", message)


def _lack(host: Host, asked: Request, precision: str) -> str | None:
    reasons = [why_lacking(precision, device, host.versions) for device in _devices(host, asked)]
    return reasons[0] if all(reasons) else None


def _devices(host: Host, asked: Request) -> list[Mapping[str, Any]]:
    """What a job would be given some of on this host, if nothing else ran there."""
    ids = set(offered(free_by_kind(host.devices), asked.accelerator))
    return [device for device in host.devices if device["id"] in ids]


def _no_device(asked: Request, hosts: Sequence[Host], fitting: int, pointer: str) -> Fault:
    most = max((len(_devices(host, asked)) for host in hosts), default=0)
    remedy = "Change it, or leave `when_unavailable` out to have the job wait."
    if not hosts:
        return Fault(f"{pointer}/accelerator", "no_such_device", f"No worker is up. {remedy}")
    if most == 0:
        message = f"No worker that is up has a device of kind {asked.accelerator!r}. {remedy}"
        return Fault(f"{pointer}/accelerator", "no_such_device", message)
    if most < asked.devices:
        message = f"The job asks for {asked.devices} devices; no worker that is up has more than {most}. {remedy}"
        return Fault(f"{pointer}/devices", "no_such_device", message)
    message = (
        f"The job asks for {asked.num_nodes} nodes; {fitting} of the workers that are up have the devices. {remedy}"
    )
    return Fault(f"{pointer}/num_nodes", "no_such_device", message)
