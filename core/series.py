"""Reading metric series: as they are, or joined into as many buckets as a picture has room for."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from operator import attrgetter

from sqlalchemy import ColumnElement, Connection, and_, func, or_, select

from core.metric_chunk import Columns, moment, unpack
from core.tables import metric_chunks

IDS_PER_QUESTION = 500
CHUNKS_SHORT = 8
"""Up to half of these, a series is read point by point, however few points of it are asked for."""


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


def read_series(
    connection: Connection,
    names: Mapping[int, str],
    most: int,
    from_step: int | None = None,
    to_step: int | None = None,
) -> dict[int, Series]:
    """Series by id, named as `names` has it, between two steps (both included), in at most `most` buckets each.

    Those of many chunks are told by chunks, the others point by point.
    """
    chunk = metric_chunks.c
    inside: list[ColumnElement[bool]] = []
    if from_step is not None:
        inside.append(chunk.last_step >= from_step)
    if to_step is not None:
        inside.append(chunk.first_step <= to_step)
    long: dict[int, list[Bucket]] = {}
    for ids in some(names):
        for series_id, bucket in _by_chunks(connection, ids, most, from_step, to_step):
            long.setdefault(series_id, []).append(bucket)
    short = {series_id: Columns.empty() for series_id in names if series_id not in long}
    for ids in some(short):
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


def some(ids: Iterable[int]) -> Iterator[list[int]]:
    """All of the ids, so many at a time as a question may name."""
    rest = list(ids)
    for start in range(0, len(rest), IDS_PER_QUESTION):
        yield rest[start : start + IDS_PER_QUESTION]


def _by_chunks(
    connection: Connection, ids: Sequence[int], most: int, from_step: int | None, to_step: int | None
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
    # All at once, and by place: row by row and by name takes three times as long as the database does.
    rows = connection.execute(select(spans.c.least, spans.c.greatest, *last).join(spans, is_newest)).all()
    for least, greatest, series_id, step, value, epoch, at in rows:
        found.add(series_id)
        yield series_id, Bucket(step, epoch, value, least, greatest, at)
    if cut and found:
        edges = select(chunk.series_id, chunk.points).where(chunk.series_id.in_(found), or_(*cut))
        for series_id, points in connection.execute(edges):
            if len(part := _between(unpack(points), from_step, to_step)):
                yield series_id, _bucket(part)


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
