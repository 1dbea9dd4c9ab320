"""Lightyard's client: submit training jobs, watch them, fetch what they made. `Client` is the way in."""

from lightyard.client import Client
from lightyard.dry_run import DryRun, Tried
from lightyard.errors import (
    ApiError,
    BadAnswerError,
    ConfigError,
    DownloadError,
    Fault,
    LightyardError,
    SpecError,
    UnreachableError,
    WaitTimeoutError,
)
from lightyard.records import Attempt, Checkpoint, Event, Job, Metric, Point, Progress, Reason, Series, Validation
from lightyard.retry import Retry

__all__ = [
    "ApiError",
    "Attempt",
    "BadAnswerError",
    "Checkpoint",
    "Client",
    "ConfigError",
    "DownloadError",
    "DryRun",
    "Event",
    "Fault",
    "Job",
    "LightyardError",
    "Metric",
    "Point",
    "Progress",
    "Reason",
    "Retry",
    "Series",
    "SpecError",
    "Tried",
    "UnreachableError",
    "Validation",
    "WaitTimeoutError",
]
