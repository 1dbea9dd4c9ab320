"""What workers have to run on: announced devices, and which jobs they suit.

A device is announced as `{"id": "gpu:0", "name": …, "memory_bytes": …}`; the part before the colon is its kind. On a
CPU a device is a slot. An NVIDIA GPU says its `compute_capability` too, as "9.0".
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, or_

from core.tables import jobs

Announced = Sequence[Mapping[str, Any]]
Kinds = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Host:
    """A worker that is up: what it has to run on, and which packages of which version."""

    devices: Announced
    versions: Mapping[str, str]


def free_by_kind(announced: Announced, taken: Collection[str] = ()) -> dict[str, list[str]]:
    """The ids of the devices that are free, under each kind that the worker has (a kind may have none free)."""
    kinds: dict[str, list[str]] = {}
    for device in announced:
        free = kinds.setdefault(device["id"].partition(":")[0], [])
        if device["id"] not in taken:
            free.append(device["id"])
    return kinds


def offered(kinds: Kinds, accelerator: str) -> Sequence[str]:
    """The free devices for a job's accelerator; `auto` is what Lightning would choose on that machine."""
    return kinds.get(kind_for(kinds, accelerator), [])


def kind_for(kinds: Kinds, accelerator: str) -> str:
    """The kind of device on which a job for an accelerator runs there; of `auto` where there is none: `auto`."""
    if accelerator != "auto":
        return accelerator
    return next((kind for kind in ("gpu", "tpu", "mps", "cpu") if kind in kinds), accelerator)


def runnable(kinds: Kinds) -> ColumnElement[bool]:
    """The condition on `jobs` that a worker with these free devices can run it."""
    pairs = [(kind, len(devices)) for kind, devices in kinds.items()] + [("auto", len(offered(kinds, "auto")))]
    return or_(*[and_(jobs.c.accelerator == kind, jobs.c.devices <= count) for kind, count in pairs])
