"""Metric series: points keyed by (job, name, step), so that shipping them twice changes nothing.

They lie in chunks, some hundred points in a row of the table (docs/adr/0006). A chunk's row tells its last point and
its extremes, so a long series is shown from the rows alone.
"""

import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain, groupby
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, and_, delete, func, select, tuple_

from core.database import Database
from core.metric_chunk import NO_EPOCH, POINTS_MAX, Columns, microseconds, moment, pack, unpack
from core.series import Series, read_series, some
from core.tables import metric_chunks, metric_series

INSERT_ROWS = 500


class Logged(NamedTuple):
    """Values that were logged at one step, by name; they may be NaN or infinite."""

    step: int
    epoch: int | None
    at: datetime
    values: Mapping[str, float]


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


class Metrics:
    """The store of metric series."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self, connection: Connection, job_id: str, logged: Iterable[Logged], names_max: int, *, replace: bool = True
    ) -> set[str]:
        """Write points inside the caller's transaction; a point of the same name and step is replaced, or stays.

        Returns the names left out because the job already has `names_max` others.
        """
        columns = _by_name(logged)
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
            return read_series(connection, {series_id: name}, max_points, from_step, to_step)[series_id]

    def query(
        self, job_ids: Sequence[str], names: Sequence[str], max_points: int
    ) -> Mapping[str, Mapping[str, Series]]:
        """Series of many jobs in one call, by job id and name; what was never logged is left out."""
        found: dict[str, dict[str, Series]] = {job_id: {} for job_id in job_ids}
        wanted = select(metric_series).where(metric_series.c.job_id.in_(job_ids), metric_series.c.name.in_(names))
        with self._database.read() as connection:
            rows = connection.execute(wanted).all()
            read = read_series(connection, {row.id: row.name for row in rows}, max_points)
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
        for ids in some(new):
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
            rows.extend(chunk_row(series_id, chunk) for chunk in made)
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


def _by_name(logged: Iterable[Logged]) -> dict[str, Columns]:
    """Points by series, in the order in which they were logged."""
    columns: dict[str, Columns] = {}
    # A run logs the same names for many steps, most of the time: then what it logs is columns already.
    for names, group in groupby(logged, lambda one: tuple(one.values)):
        rows = list(group)
        steps = array("q", [row.step for row in rows])
        epochs = array("i", [NO_EPOCH if row.epoch is None else row.epoch for row in rows])
        at = array("q", [microseconds(row.at) for row in rows])
        values = array("d", chain.from_iterable([row.values.values() for row in rows]))
        for place, name in enumerate(names):
            of_name = Columns(steps, epochs, values[place :: len(names)], at)
            columns.setdefault(name, Columns.empty()).extend(of_name)
    return columns


def _touched(rows: Sequence[Row[Any]], new: Columns) -> list[Row[Any]]:
    """Of a series' chunks in order: those that new points lie in, and the one before them while it is not full."""
    first, last = new.steps[0], new.steps[-1]
    touched = [row for row in rows if row.last_step >= first and row.first_step <= last]
    before = [row for row in rows if row.last_step < first][-1:]
    return [row for row in before if row.point_count < POINTS_MAX] + touched


def chunk_row(series_id: int, chunk: Columns) -> dict[str, Any]:
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


def newest(logged: Iterable[Logged]) -> dict[str, Any]:
    """The last value of each name, as JSON can carry it."""
    last: dict[str, float] = {}
    for one in logged:
        last.update(one.values)
    return {name: readable(value) for name, value in last.items()}


def readable(value: float) -> float | str:
    """A float as JSON can carry it: what is not finite becomes its name as a string."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
