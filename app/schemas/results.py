"""What a job yields as callers see it: metrics, checkpoints, artifacts."""

from datetime import datetime

from pydantic import Field

from app.schemas.resource import Number, Resource
from core.checkpoints import Artifact, Checkpoint
from core.metrics import Summary


class MetricOut(Resource):
    """One series in figures; `min` and `max` leave NaN out."""

    name: str
    count: int
    first_step: int
    last_step: int
    last: Number
    min: Number | None
    max: Number | None

    @classmethod
    def of(cls, summary: Summary) -> "MetricOut":
        """The series as callers see it."""
        return cls.model_validate(summary, from_attributes=True)


class PointOut(Resource):
    """One point of a series, or a bucket of neighbours: its last value and its extremes."""

    step: int
    epoch: int | None
    value: Number
    min: Number | None
    max: Number | None
    at: datetime


class SeriesOut(Resource):
    """A series."""

    name: str
    points: list[PointOut]
    downsampled: bool


class JobSeriesOut(SeriesOut):
    """A series of one of the jobs asked for."""

    job_id: str


class SeriesListOut(Resource):
    """The series found, by job and name in the order asked for; what was never logged is left out."""

    data: list[JobSeriesOut]


class CheckpointOut(Resource):
    """A checkpoint that can be downloaded from `/v1/checkpoints/{id}/content`."""

    id: str
    name: str = Field(description="Its file's name, below the folder of the run's checkpoints.")
    kind: str
    step: int
    epoch: int
    metrics: dict[str, Number]
    size_bytes: int
    sha256: str
    created_at: datetime
    is_best: bool
    is_last: bool
    pinned: bool

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> "CheckpointOut":
        """The checkpoint as callers see it."""
        return cls.model_validate(checkpoint, from_attributes=True)


class ArtifactOut(Resource):
    """Another file that a run left."""

    name: str
    media_type: str
    size_bytes: int
    sha256: str
    created_at: datetime

    @classmethod
    def of(cls, artifact: Artifact) -> "ArtifactOut":
        """The artifact as callers see it."""
        return cls.model_validate(artifact, from_attributes=True)
