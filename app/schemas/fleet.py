"""Workers, their queue and their catalogue as callers see them."""

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from app.schemas.resource import FaultOut, Page, Resource
from core.catalog import Entry, Kind
from core.fleet import Worker
from core.job import Job
from core.queue import Waiting


class DeviceOut(Resource):
    """A device of a worker, and the job that has it (null too where that job is not the caller's)."""

    id: str
    name: str | None
    memory_bytes: int | None
    busy: bool
    job_id: str | None


class WorkerOut(Resource):
    """A worker that has not said goodbye."""

    id: str
    name: str
    status: Literal["online", "offline"]
    devices: list[DeviceOut]
    versions: dict[str, str]
    started_at: datetime
    heartbeat_at: datetime

    @classmethod
    def of(cls, worker: Worker, own_jobs: set[str]) -> "WorkerOut":
        """The worker as callers see it."""
        devices = []
        for device in worker.devices:
            job_id = worker.busy.get(device["id"])
            devices.append(
                DeviceOut(
                    id=device["id"],
                    name=device.get("name"),
                    memory_bytes=device.get("memory_bytes"),
                    busy=job_id is not None,
                    job_id=job_id if job_id in own_jobs else None,
                )
            )
        return cls(
            id=worker.id,
            name=worker.name,
            status="online" if worker.online else "offline",
            devices=devices,
            versions=worker.versions,
            started_at=worker.started_at,
            heartbeat_at=worker.heartbeat_at,
        )


class QueuedOut(Resource):
    """A queued job, and what it waits for."""

    id: str
    name: str | None
    priority: int
    accelerator: str
    devices: int
    position: int
    reason: str
    created_at: datetime
    available_at: datetime

    @classmethod
    def of(cls, job: Job, waiting: Waiting) -> "QueuedOut":
        """The job as its place in the queue."""
        return cls(
            id=job.id,
            name=job.name,
            priority=job.priority,
            accelerator=job.accelerator,
            devices=job.devices,
            position=waiting.position,
            reason=waiting.reason,
            created_at=job.created_at,
            available_at=job.available_at,
        )


class ClassOut(Resource):
    """A class or function that a config may name."""

    class_path: str
    name: str = Field(description="Short name, usable where it means one class alone.")
    kind: Kind
    summary: str
    aliases: list[str]
    builtin: bool = Field(description="Comes with Lightning or torch.")

    @classmethod
    def of(cls, entry: Entry) -> "ClassOut":
        """The class in short."""
        return cls(
            class_path=entry.class_path,
            name=entry.name,
            kind=entry.kind,
            summary=entry.doc.strip().partition("\n")[0],
            aliases=list(entry.aliases),
            builtin=entry.builtin,
        )


class ClassDetailOut(ClassOut):
    """A class with its arguments."""

    doc: str
    bases: list[str]
    json_schema: dict[str, Any] = Field(serialization_alias="schema", description="JSON Schema of its arguments.")
    defaults: dict[str, Any] = Field(description="Default of each argument that has one.")

    @classmethod
    def of(cls, entry: Entry) -> "ClassDetailOut":
        """The class in full."""
        properties = entry.schema.get("properties", {})
        return cls(
            **ClassOut.of(entry).model_dump(),
            doc=entry.doc,
            bases=list(entry.bases),
            json_schema=dict(entry.schema),
            defaults={name: sub["default"] for name, sub in properties.items() if "default" in sub},
        )


class CatalogPage(Page[ClassOut]):
    """One page of the catalogue."""

    errors: list[FaultOut] = Field(description="Modules that workers could not import; the pointer names the module.")
