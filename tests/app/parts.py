"""The API under test: a real server on a free port, and a worker played by the store verbs that a worker uses."""

import hashlib
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import orjson

from app.main import create_app
from app.server import Server, server
from core.attempts import Attempts
from core.catalog import CALLBACK, DATA_MODULE, LIGHTNING_MODULE, OPTIMIZER, TRAINER, Catalog, Entry, Kind
from core.checkpoints import Artifact, Artifacts, Checkpoint, Checkpoints
from core.claims import Claim, Claims
from core.database import Database, upgrade
from core.fleet import Fleet
from core.ids import new_id
from core.logs import Logs
from core.metrics import Logged, Metrics
from core.security import first_start
from core.settings import Settings
from core.states import CheckpointKind, Status
from core.storage import Store, job_prefix
from embedded.home import free_port
from tests.waiting import wait_until

CATALOG = Catalog(
    entries=(
        Entry(
            "models.vision.ImageClassifier",
            Kind.MODEL,
            ("models.vision.ImageClassifier", LIGHTNING_MODULE),
            {
                "type": "object",
                "properties": {
                    "lr": {"type": "number", "exclusiveMinimum": 0, "default": 0.001},
                    "width": {"type": "integer", "minimum": 1, "default": 32},
                },
                "additionalProperties": False,
            },
            doc="A small convolutional network.\n\nIt classifies images.",
        ),
        Entry(
            "models.data.Digits",
            Kind.DATA,
            ("models.data.Digits", DATA_MODULE),
            {
                "type": "object",
                "properties": {"batch_size": {"type": "integer", "minimum": 1, "default": 64}},
                "additionalProperties": False,
            },
        ),
        Entry(
            "pytorch_lightning.callbacks.EarlyStopping",
            Kind.CALLBACK,
            ("pytorch_lightning.callbacks.EarlyStopping", CALLBACK),
            {
                "type": "object",
                "properties": {"monitor": {"type": "string"}, "patience": {"type": "integer", "default": 3}},
                "required": ["monitor"],
                "additionalProperties": False,
            },
            builtin=True,
        ),
        Entry(
            "torch.optim.AdamW",
            Kind.OPTIMIZER,
            ("torch.optim.AdamW", OPTIMIZER),
            {
                "type": "object",
                "properties": {"lr": {"type": "number", "default": 0.001}},
                "additionalProperties": False,
            },
            builtin=True,
        ),
        Entry(
            TRAINER,
            Kind.TRAINER,
            (TRAINER,),
            {
                "type": "object",
                "properties": {
                    "accelerator": {"type": "string", "default": "auto"},
                    "devices": {"anyOf": [{"type": "integer"}, {"type": "string"}], "default": "auto"},
                    "max_epochs": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None},
                },
                "additionalProperties": False,
            },
            builtin=True,
        ),
    )
)
"""What the workers of these tests announce."""

CONFIG: dict[str, Any] = {
    "seed_everything": 42,
    "model": {"class_path": "models.vision.ImageClassifier", "init_args": {"lr": 0.01}},
    "data": {"class_path": "models.data.Digits", "init_args": {"batch_size": 32}},
    "trainer": {"accelerator": "cpu", "devices": 1, "max_epochs": 2},
}
WORKER_VERSIONS = {"torch": "2.13.0"}


@dataclass
class Api:
    """A running API, and the store verbs with which a test plays the worker."""

    config: Settings
    database: Database
    key: str
    url: str
    http: httpx.Client
    running: Server
    claims: dict[str, Claim] = field(default_factory=dict)

    def submit(self, config: Mapping[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
        """Submit a job and return it."""
        answer = self.http.post("/v1/jobs", json={"config": dict(config or CONFIG), **fields})
        assert answer.status_code == 201, answer.text
        job: dict[str, Any] = answer.json()
        return job

    def job(self, job_id: str) -> dict[str, Any]:
        """The job as it is now."""
        answer = self.http.get(f"/v1/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        job: dict[str, Any] = answer.json()
        return job

    def count(self) -> int:
        """How many jobs there are."""
        return len(self.http.get("/v1/jobs", params={"limit": 200}).json()["data"])

    # A worker's part

    def worker(self, catalog: Catalog = CATALOG, *, name: str = "box", devices: int = 2) -> str:
        """A worker that has joined and announced its catalogue."""
        worker_id = new_id("wrk")
        fleet = Fleet(self.database)
        cpus = [{"id": f"cpu:{number}", "name": "CPU", "memory_bytes": 2**30} for number in range(devices)]
        fleet.join(worker_id, name, 4711, cpus, WORKER_VERSIONS)
        fleet.announce(worker_id, catalog.digest, orjson.dumps(catalog.to_json()).decode())
        return worker_id

    def claim(self, worker_id: str, *, lease_seconds: float = 60.0) -> Claim:
        """The next job, held by the worker."""
        claim = Claims(self.database).claim(worker_id, "box", lease_seconds, lambda _paths: True)
        assert claim is not None
        return claim

    def running_job(self, config: Mapping[str, Any] | None = None, **fields: Any) -> Claim:
        """A job that a worker has just claimed."""
        worker_id = self.worker()
        self.submit(config, **fields)
        return self.claim(worker_id)

    def finish(self, claim: Claim, status: Status = Status.SUCCEEDED, reason: Mapping[str, Any] | None = None) -> None:
        """End a claimed job."""
        Attempts(self.database).finish(claim.job.id, claim.token, status, reason)

    def stop(self, claim: Claim) -> Status:
        """Say that the trainer of a claimed job has stopped between two steps; returns where the job went."""
        return Attempts(self.database).stopped(claim.job.id, claim.token, "stopped", saved=True)

    def note(self, claim: Claim, event: str | None = None, **values: Any) -> None:
        """Report something of a claimed job."""
        happened = [(event, datetime.now(UTC), {})] if event else []
        with self.database.write() as connection:
            Attempts(self.database).note(connection, claim.job.id, claim.token, happened, **values)

    def log(self, claim: Claim, offset: int, text: bytes) -> None:
        """Write a piece of a claimed job's log."""
        with self.database.write() as connection:
            Attempts(self.database).note(connection, claim.job.id, claim.token)
            Logs(self.database).add(connection, claim.job.id, claim.attempt, offset, text)

    def metric(self, claim: Claim, name: str, values: Mapping[int, float]) -> None:
        """Log values by step."""
        logged = [Logged(step, 0, datetime.now(UTC), {name: value}) for step, value in values.items()]
        with self.database.write() as connection:
            Metrics(self.database).add(connection, claim.job.id, logged, 100)

    def checkpoint(
        self,
        claim: Claim,
        content: bytes,
        folder: Path,
        *,
        name: str = "last.ckpt",
        kind: str = CheckpointKind.MODEL_CHECKPOINT,
        **flags: Any,
    ) -> str:
        """Store a file and publish it as a checkpoint; returns its id."""
        checkpoint_id, digest = new_id("ckpt"), hashlib.sha256(content).hexdigest()
        key = f"{job_prefix(claim.job.id)}/checkpoints/{checkpoint_id}"
        source = folder / checkpoint_id
        source.write_bytes(content)
        Store(self.config.storage).put(source, key)
        row = Checkpoint(
            id=checkpoint_id,
            job_id=claim.job.id,
            attempt=claim.attempt,
            kind=kind,
            name=name,
            step=10,
            epoch=1,
            metrics={"val_acc": 0.5},
            size_bytes=len(content),
            sha256=digest,
            storage_key=key,
            pinned=False,
            created_at=datetime.now(UTC),
            **flags,
        )
        Checkpoints(self.database).publish(claim.token, row)
        return checkpoint_id

    def artifact(self, claim: Claim, name: str, content: bytes, folder: Path, media_type: str = "text/plain") -> None:
        """Store a file and publish it as an artifact."""
        artifact_id = new_id("art")
        key = f"{job_prefix(claim.job.id)}/artifacts/{artifact_id}"
        source = folder / artifact_id
        source.write_bytes(content)
        Store(self.config.storage).put(source, key)
        Artifacts(self.database).publish(
            claim.token,
            Artifact(
                artifact_id,
                claim.job.id,
                claim.attempt,
                name,
                media_type,
                len(content),
                hashlib.sha256(content).hexdigest(),
                key,
                datetime.now(UTC),
            ),
        )


@contextmanager
def running_api(home: Path, database_url: str, **settings: Any) -> Iterator[Api]:
    """An API on a database without tables, with its first key; stopped at the end."""
    config = Settings(
        home=home,
        database_url=database_url,
        port=free_port("127.0.0.1"),
        **{"hub_interval_seconds": 0.02, "broker_timeout_seconds": 0.2, "database_timeout_seconds": 5.0, **settings},
    )
    database = Database.of(config)
    upgrade(database)
    first_start(database, config.key_path)
    running = server(create_app(config), config)
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    wait_until(lambda: running.started or not thread.is_alive(), what="the API listens")
    key = config.key_path.read_text().strip()
    url = f"http://127.0.0.1:{config.port}"
    try:
        with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, trust_env=False) as http:
            yield Api(config, database, key, url, http, running)
    finally:
        running.should_exit = True
        thread.join(15)
        database.close()
        assert not thread.is_alive()
