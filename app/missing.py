"""What no worker that is up could give a job, told when it is submitted."""

from app.service import Service
from core.availability import unavailable
from core.errors import Fault
from core.spec import JobSpec


def missing(parts: Service, spec: JobSpec) -> list[Fault]:
    """The faults of a spec without other faults: devices that it is not to wait for, a precision that they lack."""
    flags = spec.config.get("trainer") or {}
    if spec.when_unavailable is None and flags.get("precision") is None:
        return []  # nothing can be missing: the fleet need not be asked
    hosts = parts.fleet.hosts(parts.config.worker_silence_seconds)
    return list(unavailable(spec.config, spec.when_unavailable, hosts, spec.config_pointer))
