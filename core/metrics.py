"""Metric series: points keyed by (job, name, step), so that shipping them twice changes nothing."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, select

from core.database import Database
from core.tables import metric_points, metric_series

INSERT_ROWS = 1_000


@dataclass(frozen=True, slots=True)
class Point:
    """One logged value; `value` may be NaN or infinite."""

    name: str
    step: int
    epoch: int | None
    value: float
    at: datetime


@dataclass(frozen=True, slots=True)
class Summary:
    """One series in figures. `last` is the value at `last_step`; `min` and `max` leave NaN out (None: nothing else)."""

    name: str
    count: int
    first_step: int
    last_step: int
    last: float
    min: float | None
    max: float | None


@dataclass(frozen=True, slots=True)
class Bucket:
    """The points of a span of steps: the value, step and epoch of the last, and the extremes of all."""

    step: int
    epoch: int | None
    value: float
    min: float | None
    max: float | None
    at: datetime


@dataclass(frozen=True, slots=True)
class Series:
    """A series, or what is left of it after joining neighbours into at most the buckets asked for."""

    name: str
    points: Sequence[Bucket]
    downsampled: bool


class Metrics:
    """The store of metric series."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self, connection: Connection, job_id: str, points: Sequence[Point], names_max: int, *, replace: bool = True
    ) -> set[str]:
        """Write points inside the caller's transaction; a point of the same name and step is replaced, or stays.

        Returns the names left out because the job already has `names_max` others.
        """
        ids = self._series(connection, job_id)
        new = [name for name in dict.fromkeys(point.name for point in points) if name not in ids]
        dropped = set(new[max(0, names_max - len(ids)) :])
        for name in new:
            if name not in dropped:
                statement = self._database.insert(metric_series).values(job_id=job_id, name=name)
                connection.execute(statement.on_conflict_do_nothing())
        if len(new) > len(dropped):
            ids = self._series(connection, job_id)
        rows = {
            (ids[point.name], point.step): {
                "series_id": ids[point.name],
                "step": point.step,
                "epoch": point.epoch,
                "value": point.value,
                "at": point.at,
            }
            for point in points
            if point.name in ids
        }
        statement = self._database.insert(metric_points)
        same = ["series_id", "step"]
        if replace:
            newer = {column: statement.excluded[column] for column in ("epoch", "value", "at")}
            statement = statement.on_conflict_do_update(index_elements=same, set_=newer)
        else:
            statement = statement.on_conflict_do_nothing(index_elements=same)
        values = list(rows.values())
        for start in range(0, len(values), INSERT_ROWS):
            connection.execute(statement, values[start : start + INSERT_ROWS])
        return dropped

    def summaries(self, job_id: str) -> Sequence[Summary]:
        """Every series of a job, by name."""
        spans = (
            select(
                metric_series.c.id,
                metric_series.c.name,
                func.count().label("points"),
                func.min(metric_points.c.step).label("first_step"),
                func.max(metric_points.c.step).label("last_step"),
                func.min(metric_points.c.value).label("low"),
                func.max(metric_points.c.value).label("high"),
            )
            .join(metric_points, metric_points.c.series_id == metric_series.c.id)
            .where(metric_series.c.job_id == job_id)
            .group_by(metric_series.c.id, metric_series.c.name)
            .subquery()
        )
        query = (
            select(spans, metric_points.c.value.label("last"))
            .join(
                metric_points,
                (metric_points.c.series_id == spans.c.id) & (metric_points.c.step == spans.c.last_step),
            )
            .order_by(spans.c.name)
        )
        with self._database.read() as connection:
            return [
                Summary(
                    name=row.name,
                    count=row.points,
                    first_step=row.first_step,
                    last_step=row.last_step,
                    last=row.last,
                    min=_known(row.low),
                    max=_known(row.high),
                )
                for row in connection.execute(query)
            ]

    def series(
        self,
        job_id: str,
        name: str,
        *,
        from_step: int | None = None,
        to_step: int | None = None,
        max_points: int = 1000,
    ) -> Series | None:
        """One series between two steps (both included), in at most `max_points` buckets; None: never logged."""
        with self._database.read() as connection:
            series_id = connection.execute(
                select(metric_series.c.id).where(metric_series.c.job_id == job_id, metric_series.c.name == name)
            ).scalar_one_or_none()
            if series_id is None:
                return None
            return self._read(connection, series_id, name, from_step, to_step, max_points)

    def query(
        self, job_ids: Sequence[str], names: Sequence[str], max_points: int
    ) -> Mapping[str, Mapping[str, Series]]:
        """Series of many jobs in one call, by job id and name; what was never logged is left out."""
        found: dict[str, dict[str, Series]] = {job_id: {} for job_id in job_ids}
        with self._database.read() as connection:
            rows = connection.execute(
                select(metric_series).where(metric_series.c.job_id.in_(job_ids), metric_series.c.name.in_(names))
            ).all()
            for row in rows:
                found[row.job_id][row.name] = self._read(connection, row.id, row.name, None, None, max_points)
        return found

    def _series(self, connection: Connection, job_id: str) -> dict[str, int]:
        query = select(metric_series.c.name, metric_series.c.id).where(metric_series.c.job_id == job_id)
        return {row.name: row.id for row in connection.execute(query)}

    def _read(
        self, connection: Connection, series_id: int, name: str, from_step: int | None, to_step: int | None, most: int
    ) -> Series:
        inside = [metric_points.c.series_id == series_id]
        if from_step is not None:
            inside.append(metric_points.c.step >= from_step)
        if to_step is not None:
            inside.append(metric_points.c.step <= to_step)
        count, first, last = connection.execute(
            select(func.count(), func.min(metric_points.c.step), func.max(metric_points.c.step)).where(*inside)
        ).one()
        if count <= most:
            rows = connection.execute(select(metric_points).where(*inside).order_by(metric_points.c.step))
            points = [
                Bucket(row.step, row.epoch, row.value, _known(row.value), _known(row.value), row.at) for row in rows
            ]
            return Series(name=name, points=points, downsampled=False)
        # Buckets of equal width in steps; each keeps its last point and its extremes.
        width = (last - first) // most + 1
        bucket = (metric_points.c.step - first) // width
        spans = (
            select(
                func.max(metric_points.c.step).label("step"),
                func.min(metric_points.c.value).label("low"),
                func.max(metric_points.c.value).label("high"),
            )
            .where(*inside)
            .group_by(bucket)
            .subquery()
        )
        rows = connection.execute(
            select(spans.c.low, spans.c.high, metric_points)
            .join(spans, spans.c.step == metric_points.c.step)
            .where(metric_points.c.series_id == series_id)
            .order_by(metric_points.c.step)
        )
        points = [Bucket(row.step, row.epoch, row.value, _known(row.low), _known(row.high), row.at) for row in rows]
        return Series(name=name, points=points, downsampled=True)


def _known(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


def newest(points: Iterable[Point]) -> dict[str, Any]:
    """The last value of each name, as JSON can carry it."""
    return {point.name: readable(point.value) for point in points}


def readable(value: float) -> float | str:
    """A float as JSON can carry it: what is not finite becomes its name as a string."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
