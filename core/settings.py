"""Everything that can be set, each with its unit and its limit. Only this module reads the environment."""

import hashlib
import os
import socket
import tempfile
from functools import cache
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

Seconds = Annotated[float, Field(gt=0)]
Bytes = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]
BACKOFF_MAX_SECONDS = 600.0


class Settings(BaseSettings):
    """Settings of one process, read from `LIGHTYARD_*` variables.

    `docs/operations.md` lists every field; a test holds the two together.
    """

    model_config = SettingsConfigDict(env_prefix="LIGHTYARD_", frozen=True, extra="ignore", validate_default=True)

    # Where things are
    home: Path = Field(Path(".lightyard"), description="Folder of all local state: key, database, store, run folders.")
    host: str = Field("127.0.0.1", description="Address the API listens on.")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(8000, description="Port the API listens on.")
    database_url: str = Field("", description="SQLAlchemy address; empty: SQLite in the home folder.")
    broker_url: str = Field("", description="Celery broker (Redis); empty: the embedded server's Unix socket.")
    storage_url: str = Field(
        "", description="Checkpoints and artifacts: a file:// address; empty: `store` in the home."
    )

    # What may run
    catalog_modules: Annotated[tuple[str, ...], NoDecode] = Field(
        ("models",), description="Modules that a worker announces and a class path may name, comma-separated."
    )
    worker_name: str = Field("", description="Name of this worker; empty: the host's name.")
    worker_slots: Annotated[int, Field(ge=0, le=1024)] | None = Field(
        None, description="Jobs this worker runs on its CPU at once; unset: 1, or 0 where there are GPUs."
    )
    worker_devices: str = Field(
        "auto", description="Devices to announce: `auto`, `cpu`, or a list as `gpu:0,gpu:1`; what is listed must exist."
    )

    worker_address: str = Field(
        "",
        description="Address at which other machines reach this worker's trainers; empty: from which it reaches the "
        "broker.",
    )

    # Attempts
    lease_seconds: Seconds = Field(15.0, description="An attempt whose worker is silent for so long is requeued.")
    reconcile_interval_seconds: Seconds = Field(1.0, description="How often each process looks for expired leases.")
    ring_after_seconds: Seconds = Field(3.0, description="A job queued for so long has its doorbell rung again.")
    recovery_interval_seconds: Seconds = Field(60.0, description="Longest training time between recovery checkpoints.")
    data_seeding: Annotated[str, Field(pattern="^(loader|index)$")] = Field(
        "loader",
        description="What DataLoader workers draw from: `loader`, as by hand; or `index`, where resuming fetches "
        "nothing again but runs differ from those by hand.",
    )
    data_locks: str = Field(
        "",
        description="Folder in which the trainers of one machine lock the data that they prepare; empty: in its "
        "temporary folder.",
    )
    data_wait_seconds: Seconds = Field(
        7200.0, description="Longest wait of a job for another one on the machine that prepares the same data."
    )
    stop_grace_seconds: Seconds = Field(20.0, description="From a request to stop until the trainer is killed.")
    standby: bool = Field(
        True, description="Whether a trainer waits for each device that is free, so that a job starts at once."
    )
    start_timeout_seconds: Seconds = Field(120.0, description="A trainer that has not reported by then is killed.")
    retry_backoff_seconds: Annotated[float, Field(gt=0, le=BACKOFF_MAX_SECONDS)] = Field(
        1.0, description="First wait before a lost attempt is tried again; doubles."
    )
    retry_backoff_max_seconds: Annotated[float, Field(gt=0, le=BACKOFF_MAX_SECONDS)] = Field(
        60.0, description="Longest such wait; 600 at most."
    )
    preemption: bool = Field(
        False, description="Whether a job of higher priority may take the devices of running ones, which go on later."
    )
    gang_patience_seconds: Annotated[float, Field(ge=0)] = Field(
        30.0, description="A job of several machines that has waited for so long has devices kept free for it."
    )
    gang_hold_seconds: Annotated[float, Field(ge=0)] = Field(
        3600.0, description="Longest that they are; then others may have them for as long, and so on. 0: never."
    )
    worker_silence_seconds: Seconds = Field(15.0, description="A worker silent for so long is shown as offline.")

    # Limits of one job, used where its spec sets none
    job_max_seconds: Seconds = Field(30 * 86400.0, description="Longest running time of a job, all attempts together.")
    job_max_attempts: Annotated[int, Field(ge=1, le=100)] = Field(5, description="Most attempts of a job.")
    job_max_memory_bytes: Annotated[int, Field(ge=0)] = Field(
        0, description="Most memory of a trainer and its children; 0: nine tenths of the machine's."
    )
    log_max_bytes: Bytes = Field(
        64 * 2**20,
        description="Most log kept of one attempt, and as much of all its ranks behind the first together; the rest "
        "is dropped, said so.",
    )
    artifact_max_bytes: Bytes = Field(2 * 2**30, description="Largest artifact that is kept.")
    artifacts_max_count: Count = Field(1000, description="Most artifacts of one job.")
    artifacts_max_bytes: Bytes = Field(64 * 2**30, description="Most bytes of all artifacts of one job.")
    logged_files_max_count: Count = Field(
        500, description="Most images, histograms, texts and the like that one attempt may log."
    )
    logged_files_max_bytes: Bytes = Field(256 * 2**20, description="Most bytes of all those.")
    metric_names_max_count: Count = Field(2000, description="Most metric names of one job.")
    spool_line_max_bytes: Bytes = Field(
        2**20, description="Longest line of a trainer's spool; longer ones are dropped."
    )
    ship_interval_seconds: Seconds = Field(0.5, description="How often a supervisor ships what the trainer wrote.")
    ship_batch_points: Count = Field(20_000, description="Most metric points in one transaction.")
    store_away_max_seconds: Seconds = Field(
        86400.0, description="Longest wait for a store that is away when an attempt has ended."
    )
    store_full_max_seconds: Seconds = Field(
        600.0, description="Longest wait for room in the store when an attempt has ended; then it is `out_of_disk`."
    )
    leftover_seconds: Seconds = Field(3600.0, description="A stored file that no row names is removed after so long.")
    run_max_bytes: Annotated[int, Field(ge=0)] = Field(
        0, description="Most disk that a run folder may take; 0: no limit but the disk's."
    )
    run_keep_seconds: Annotated[float, Field(ge=0)] = Field(
        3600.0, description="A run folder is kept for so long after its attempt ended."
    )

    # Dry runs
    dry_run_max_seconds: Seconds = Field(300.0, description="Longest running time of a dry run.")
    dry_run_keep_hours: Annotated[float, Field(ge=1)] = Field(
        24.0, description="A dry run is deleted so long after its end."
    )

    # Limits of one request
    body_max_bytes: Bytes = Field(2 * 2**20, description="Largest request body.")
    body_timeout_seconds: Seconds = Field(30.0, description="Longest time for a request body to arrive.")
    body_max_depth: Count = Field(64, description="Deepest nesting of a body.")
    body_max_nodes: Count = Field(100_000, description="Most values in a body, aliases expanded.")
    wait_max_seconds: Seconds = Field(60.0, description="Longest `wait` of a poll.")
    stream_keepalive_seconds: Seconds = Field(15.0, description="Silence after which a stream sends a comment.")
    waiters_max_count: Count = Field(1000, description="Most requests of one API process that wait or stream.")
    log_answer_max_bytes: Bytes = Field(2**20, description="Most of a log in one answer.")
    hub_interval_seconds: Seconds = Field(0.1, description="How often the API looks for changes of watched jobs.")
    page_max_rows: Annotated[int, Field(ge=1, le=200)] = Field(200, description="Most rows of a page.")
    points_max_count: Count = Field(10_000, description="Most points of one metric series in an answer.")
    query_jobs_max_count: Count = Field(100, description="Most jobs of one metrics query.")
    queued_jobs_max_count: Count = Field(1_000_000, description="Most queued jobs of a project.")
    idempotency_hours: Annotated[float, Field(gt=0)] = Field(24.0, description="How long an idempotency key is kept.")

    # Parts
    database_pool_size: Count = Field(10, description="Most database connections of one process.")
    worker_threads: Count = Field(64, description="Threads of a worker: more than the devices of any machine.")
    database_timeout_seconds: Seconds = Field(15.0, description="Longest wait for a database connection or lock.")
    broker_timeout_seconds: Seconds = Field(5.0, description="Longest wait for the broker to take a message.")
    log_level: Annotated[str, Field(pattern="^(debug|info|warning|error)$")] = Field(
        "info", description="Least level that is logged; requests that told nothing new (304) are of level debug."
    )
    log_format: Annotated[str, Field(pattern="^(console|json)$")] = Field("console", description="console or json.")

    @field_validator("home")
    @classmethod
    def _absolute(cls, home: Path) -> Path:
        return home.expanduser().absolute()

    @field_validator("catalog_modules", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @property
    def key_path(self) -> Path:
        """File of the first API key."""
        return self.home / "key"

    @property
    def runs_path(self) -> Path:
        """Folder of the run directories of this machine's workers."""
        return self.home / "runs"

    @property
    def data_locks_path(self) -> Path:
        """Folder of the locks on data that are being prepared: one for all workers of this user on this machine."""
        shared = Path(tempfile.gettempdir()) / f"lightyard-{os.getuid()}-data-locks"
        return Path(self.data_locks).expanduser().absolute() if self.data_locks else shared

    @property
    def database(self) -> str:
        """SQLAlchemy address of the database, psycopg3 for PostgreSQL."""
        url = self.database_url or f"sqlite:///{self.home / 'lightyard.db'}"
        for prefix in ("postgres://", "postgresql://"):
            if url.startswith(prefix):
                return "postgresql+psycopg://" + url.removeprefix(prefix)
        return url

    @property
    def socket_path(self) -> Path:
        """Unix socket of the embedded broker.

        It lies outside the home folder: a socket's address is limited to 107 bytes (unix(7)), a home's is not.
        """
        name = hashlib.sha256(str(self.home).encode()).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"lightyard-{os.getuid()}-{name}" / "broker.sock"

    @property
    def broker(self) -> str:
        """Address of the Celery broker."""
        return self.broker_url or f"redis+socket://{self.socket_path}?virtual_host=0"

    @property
    def storage(self) -> str:
        """Address of the object store."""
        return self.storage_url or f"file://{self.home / 'store'}"

    @property
    def worker(self) -> str:
        """Name of this worker."""
        return self.worker_name or socket.gethostname()


@cache
def settings() -> Settings:
    """The settings of this process, read once."""
    return Settings()
