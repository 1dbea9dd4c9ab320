"""Metric series: points keyed by (job, name, step), so that shipping them twice changes nothing.

They lie in chunks, some hundred points in a row of the table (docs/adr/0006). A chunk's row tells its last point and
its extremes, so a long series is shown from the rows alone.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from operator import attrgetter
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, delete, func, or_, select, tuple_

from core.database import Database
from core.metric_chunk import POINTS_MAX, Columns, moment, pack, unpack
from core.tables import metric_chunks, metric_series

IDS_PER_QUESTION = 500
INSERT_ROWS = 500
CHUNKS_SHORT = 8
"""Up to half of these, a series is read point by point, however few points of it are asked for."""


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
        columns: dict[str, Columns] = {}
        for point in points:
            of_name = columns.get(point.name)
            if of_name is None:
                of_name = columns[point.name] = Columns.empty()
            of_name.add(point.step, point.epoch, point.value, point.at)
        ids = self._series(connection, job_id)
        new = [name for name in columns if name not in ids]
        dropped = set(new[max(0, names_max - len(ids)) :])
        if len(new) > len(dropped):
            rows = [{"job_id": job_id, "name": name} for name in new if name not in dropped]
            connection.execute(self._database.insert(metric_series).on_conflict_do_nothing(), rows)
            ids = self._series(connection, job_id)
        found = {ids[name]: of_name.in_order() for name, of_name in columns.items() if name in ids}
        if found:
            self._merge(connection, found, replace)
        return dropped

    def summaries(self, job_id: str) -> Sequence[Summary]:
        """Every series of a job, by name."""
        chunk = metric_chunks.c
        spans = (
            select(
                metric_series.c.id,
                metric_series.c.name,
                func.sum(chunk.point_count).label("points"),
                func.min(chunk.first_step).label("first_step"),
                func.max(chunk.first_step).label("newest"),
                func.min(chunk.low).label("low"),
                func.max(chunk.high).label("high"),
            )
            .join(metric_chunks, chunk.series_id == metric_series.c.id)
            .where(metric_series.c.job_id == job_id)
            .group_by(metric_series.c.id, metric_series.c.name)
            .subquery()
        )
        query = (
            select(spans, chunk.last, chunk.last_step)
            .join(metric_chunks, and_(chunk.series_id == spans.c.id, chunk.first_step == spans.c.newest))
            .order_by(spans.c.name)
        )
        with self._database.read() as connection:
            return [
                Summary(
                    name=row.name,
                    count=int(row.points),
                    first_step=row.first_step,
                    last_step=row.last_step,
                    last=row.last,
                    min=row.low,
                    max=row.high,
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
        query = select(metric_series.c.id).where(metric_series.c.job_id == job_id, metric_series.c.name == name)
        with self._database.read() as connection:
            series_id = connection.execute(query).scalar_one_or_none()
            if series_id is None:
                return None
            return self._read(connection, {series_id: name}, max_points, from_step, to_step)[series_id]

    def query(
        self, job_ids: Sequence[str], names: Sequence[str], max_points: int
    ) -> Mapping[str, Mapping[str, Series]]:
        """Series of many jobs in one call, by job id and name; what was never logged is left out."""
        found: dict[str, dict[str, Series]] = {job_id: {} for job_id in job_ids}
        wanted = select(metric_series).where(metric_series.c.job_id.in_(job_ids), metric_series.c.name.in_(names))
        with self._database.read() as connection:
            rows = connection.execute(wanted).all()
            read = self._read(connection, {row.id: row.name for row in rows}, max_points)
        for row in rows:
            found[row.job_id][row.name] = read[row.id]
        return found

    def _series(self, connection: Connection, job_id: str) -> dict[str, int]:
        """The ids of a job's series by name. No other transaction writes points of them until this one has ended."""
        query = (
            select(metric_series.c.name, metric_series.c.id)
            .where(metric_series.c.job_id == job_id)
            .order_by(metric_series.c.id)
            .with_for_update(key_share=True)
        )
        return {row.name: row.id for row in connection.execute(query)}

    def _merge(self, connection: Connection, new: Mapping[int, Columns], replace: bool) -> None:
        """Put points into the chunks where they belong, or behind them."""
        there: dict[int, list[Row[Any]]] = {series_id: [] for series_id in new}
        first, last = min(one.steps[0] for one in new.values()), max(one.steps[-1] for one in new.values())
        for ids in _some(new):
            for row in self._around(connection, ids, first, last):
                there[row.series_id].append(row)
        gone: dict[int, list[int]] = {}
        rows: list[dict[str, Any]] = []
        for series_id, columns in new.items():
            touched = _touched(there[series_id], columns)
            merged = columns
            if touched:
                merged = Columns.empty()
                for row in touched:
                    merged.extend(unpack(row.points))
                merged.extend(columns)
                merged = merged.in_order(first_counts=not replace)
            made = list(merged.chunks())
            kept = {chunk.steps[0] for chunk in made}
            lost = [row.first_step for row in touched if row.first_step not in kept]
            if lost:
                gone[series_id] = lost
            rows.extend(_row(series_id, chunk) for chunk in made)
        for series_id, steps in gone.items():
            here = and_(metric_chunks.c.series_id == series_id, metric_chunks.c.first_step.in_(steps))
            connection.execute(delete(metric_chunks).where(here))
        statement = self._database.insert(metric_chunks)
        key = ["series_id", "first_step"]
        newer = {column.name: statement.excluded[column.name] for column in metric_chunks.c if column.name not in key}
        statement = statement.on_conflict_do_update(index_elements=key, set_=newer)
        for start in range(0, len(rows), INSERT_ROWS):
            connection.execute(statement, rows[start : start + INSERT_ROWS])

    def _around(self, connection: Connection, ids: Sequence[int], first: int, last: int) -> Sequence[Row[Any]]:
        """Of each series, the chunks that may hold steps from `first` to `last`, and the one before them, in order."""
        chunk = metric_chunks.c
        before = select(func.max(chunk.first_step))
        before = before.where(chunk.series_id == metric_series.c.id, chunk.first_step <= first)
        starts = select(metric_series.c.id, before.scalar_subquery()).where(metric_series.c.id.in_(ids))
        known = [(series_id, start) for series_id, start in connection.execute(starts) if start is not None]
        wanted = select(chunk.series_id, chunk.first_step, chunk.last_step, chunk.point_count, chunk.points)
        within = and_(chunk.series_id.in_(ids), chunk.first_step > first, chunk.first_step <= last)
        rows = list(connection.execute(wanted.where(tuple_(chunk.series_id, chunk.first_step).in_(known))))
        return rows + list(connection.execute(wanted.where(within).order_by(chunk.first_step)))

    def _read(
        self,
        connection: Connection,
        names: Mapping[int, str],
        most: int,
        from_step: int | None = None,
        to_step: int | None = None,
    ) -> dict[int, Series]:
        """Series by id, between two steps. Those of many chunks are told by chunks, the others point by point."""
        chunk = metric_chunks.c
        inside: list[ColumnElement[bool]] = []
        if from_step is not None:
            inside.append(chunk.last_step >= from_step)
        if to_step is not None:
            inside.append(chunk.first_step <= to_step)
        long: dict[int, list[Bucket]] = {}
        for ids in _some(names):
            for series_id, bucket in self._by_chunks(connection, ids, most, from_step, to_step):
                long.setdefault(series_id, []).append(bucket)
        short = {series_id: Columns.empty() for series_id in names if series_id not in long}
        for ids in _some(short):
            query = select(chunk.series_id, chunk.points).where(chunk.series_id.in_(ids), *inside)
            for row in connection.execute(query.order_by(chunk.series_id, chunk.first_step)):
                short[row.series_id].extend(unpack(row.points))
        return {
            series_id: Series(names[series_id], _joined(sorted(buckets, key=attrgetter("step")), most), True)
            for series_id, buckets in long.items()
        } | {
            series_id: _series_of(names[series_id], _between(columns, from_step, to_step), most)
            for series_id, columns in short.items()
        }

    def _by_chunks(
        self, connection: Connection, ids: Sequence[int], most: int, from_step: int | None, to_step: int | None
    ) -> Iterator[tuple[int, Bucket]]:
        """Those series that have chunks enough, as about `most` buckets of them; chunks that reach out are cut."""
        chunk = metric_chunks.c
        whole: list[ColumnElement[bool]] = [chunk.series_id.in_(ids)]
        cut: list[ColumnElement[bool]] = []
        if from_step is not None:
            whole.append(chunk.first_step >= from_step)
            cut.append(and_(chunk.first_step < from_step, chunk.last_step >= from_step))
        if to_step is not None:
            whole.append(chunk.last_step <= to_step)
            cut.append(and_(chunk.first_step <= to_step, chunk.last_step > to_step))
        count = func.count().over(partition_by=chunk.series_id)
        number = func.row_number().over(partition_by=chunk.series_id, order_by=chunk.first_step)
        place = (number - 1) * max(1, most - len(cut)) // count
        wanted = (chunk.series_id, chunk.first_step, chunk.low, chunk.high)
        placed = select(*wanted, place.label("place"), count.label("count")).where(*whole).subquery()
        spans = (
            select(
                placed.c.series_id,
                func.max(placed.c.first_step).label("newest"),
                func.min(placed.c.low).label("least"),
                func.max(placed.c.high).label("greatest"),
            )
            .where(placed.c["count"] * 2 > max(most, CHUNKS_SHORT))
            .group_by(placed.c.series_id, placed.c.place)
            .subquery()
        )
        last = (chunk.series_id, chunk.last_step, chunk.last, chunk.last_epoch, chunk.last_at)
        is_newest = and_(chunk.series_id == spans.c.series_id, chunk.first_step == spans.c.newest)
        found = set()
        for row in connection.execute(select(spans.c.least, spans.c.greatest, *last).join(spans, is_newest)):
            found.add(row.series_id)
            yield (
                row.series_id,
                Bucket(row.last_step, row.last_epoch, row.last, row.least, row.greatest, row.last_at),
            )
        if cut and found:
            edges = select(chunk.series_id, chunk.points).where(chunk.series_id.in_(found), or_(*cut))
            for series_id, points in connection.execute(edges):
                if len(part := _between(unpack(points), from_step, to_step)):
                    yield series_id, _bucket(part)


def _some(ids: Iterable[int]) -> Iterator[list[int]]:
    """All of the ids, so many at a time as a question may name."""
    rest = list(ids)
    for start in range(0, len(rest), IDS_PER_QUESTION):
        yield rest[start : start + IDS_PER_QUESTION]


def _touched(rows: Sequence[Row[Any]], new: Columns) -> list[Row[Any]]:
    """Of a series' chunks in order: those that new points lie in, and the one before them while it is not full."""
    first, last = new.steps[0], new.steps[-1]
    touched = [row for row in rows if row.last_step >= first and row.first_step <= last]
    before = [row for row in rows if row.last_step < first][-1:]
    return [row for row in before if row.point_count < POINTS_MAX] + touched


def _row(series_id: int, chunk: Columns) -> dict[str, Any]:
    """A chunk as a row of its table."""
    low, high = chunk.extremes()
    return {
        "series_id": series_id,
        "first_step": chunk.steps[0],
        "last_step": chunk.steps[-1],
        "point_count": len(chunk),
        "low": low,
        "high": high,
        "last": chunk.values[-1],
        "last_epoch": chunk.epoch(-1),
        "last_at": moment(chunk.at[-1]),
        "points": pack(chunk),
    }


def _between(columns: Columns, from_step: int | None, to_step: int | None) -> Columns:
    start = 0 if from_step is None else bisect_left(columns.steps, from_step)
    return columns.part(start, len(columns) if to_step is None else bisect_right(columns.steps, to_step))


def _series_of(name: str, columns: Columns, most: int) -> Series:
    """Points as they are, or joined with their neighbours into at most `most` buckets."""
    count = len(columns)
    width = max(1, -(-count // most))
    points = [_bucket(columns, start, min(start + width, count)) for start in range(0, count, width)]
    return Series(name, points, downsampled=width > 1)


def _bucket(columns: Columns, start: int = 0, end: int | None = None) -> Bucket:
    end = len(columns) if end is None else end
    low, high = columns.extremes(start, end)
    last = end - 1
    return Bucket(columns.steps[last], columns.epoch(last), columns.values[last], low, high, moment(columns.at[last]))


def _joined(buckets: Sequence[Bucket], most: int) -> Sequence[Bucket]:
    width = max(1, -(-len(buckets) // most))
    if width == 1:
        return buckets
    groups = [buckets[start : start + width] for start in range(0, len(buckets), width)]
    return [
        replace(
            group[-1],
            min=min((one.min for one in group if one.min is not None), default=None),
            max=max((one.max for one in group if one.max is not None), default=None),
        )
        for group in groups
    ]


def newest(points: Iterable[Point]) -> dict[str, Any]:
    """The last value of each name, as JSON can carry it."""
    return {point.name: readable(point.value) for point in points}


def readable(value: float) -> float | str:
    """A float as JSON can carry it: what is not finite becomes its name as a string."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
