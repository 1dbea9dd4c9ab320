import math
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from core.database import Database
from core.job import Job
from core.metric_chunk import POINTS_MAX, Columns, pack, unpack
from core.metrics import Logged, Metrics, newest, readable

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def add(database: Database, job: Job, values: dict[str, list[float]], first: int = 0, names_max: int = 100) -> set[str]:
    logged = [
        Logged(first + step, 0, AT, {name: value})
        for name, series in values.items()
        for step, value in enumerate(series)
    ]
    with database.write() as connection:
        return Metrics(database).add(connection, job.id, logged, names_max)


def test_points_shipped_twice_are_there_once_and_the_later_value_counts(
    database: Database, submit: Callable[..., Job]
) -> None:
    job = submit()
    add(database, job, {"loss": [3.0, 2.0, 1.0]})
    add(database, job, {"loss": [2.0, 9.0]}, first=1)
    series = Metrics(database).series(job.id, "loss")
    assert series is not None
    assert [(point.step, point.value) for point in series.points] == [(0, 3.0), (1, 2.0), (2, 9.0)]
    assert series.points[0].at == AT


def test_points_that_come_late_leave_those_that_are_there(database: Database, submit: Callable[..., Job]) -> None:
    job = submit()
    add(database, job, {"loss": [3.0]}, first=1)
    late = [Logged(step, 0, AT, {"loss": 9.0}) for step in range(3)]
    with database.write() as connection:
        Metrics(database).add(connection, job.id, late, 10, replace=False)
    series = Metrics(database).series(job.id, "loss")
    assert series is not None
    assert [(point.step, point.value) for point in series.points] == [(0, 9.0), (1, 3.0), (2, 9.0)]


def test_a_summary_tells_count_span_last_and_extremes(database: Database, submit: Callable[..., Job]) -> None:
    job = submit()
    add(database, job, {"loss": [3.0, float("nan"), 1.0], "lr": [float("inf")], "bad": [float("nan")]})
    bad, loss, lr = Metrics(database).summaries(job.id)
    assert (loss.count, loss.first_step, loss.last_step, loss.last, loss.min, loss.max) == (3, 0, 2, 1.0, 1.0, 3.0)
    assert (lr.last, lr.max) == (math.inf, math.inf)
    assert math.isnan(bad.last)
    assert bad.min is None


def test_a_long_series_comes_in_buckets_that_keep_its_extremes(database: Database, submit: Callable[..., Job]) -> None:
    job = submit()
    values = [float(step % 100) for step in range(5_000)]
    values[1234], values[4321] = -50.0, 500.0
    add(database, job, {"loss": values})
    series = Metrics(database).series(job.id, "loss", max_points=20)
    assert series is not None
    assert series.downsampled
    assert 10 <= len(series.points) <= 20
    assert min(point.min for point in series.points if point.min is not None) == -50.0
    assert max(point.max for point in series.points if point.max is not None) == 500.0
    assert series.points[-1].step == 4_999
    part = Metrics(database).series(job.id, "loss", from_step=1230, to_step=1239, max_points=20)
    assert part is not None
    assert not part.downsampled
    assert [point.step for point in part.points] == list(range(1230, 1240))


def test_an_unknown_series_is_none_and_a_query_leaves_it_out(database: Database, submit: Callable[..., Job]) -> None:
    one, two = submit(), submit()
    add(database, one, {"a": [1.0], "b": [2.0]})
    add(database, two, {"a": [3.0]})
    store = Metrics(database)
    assert store.series(one.id, "c") is None
    found = store.query([one.id, two.id], ["a", "c"], 10)
    assert {job: {name: series.points[0].value for name, series in of.items()} for job, of in found.items()} == {
        one.id: {"a": 1.0},
        two.id: {"a": 3.0},
    }


def test_names_past_the_limit_are_left_out_and_named(database: Database, submit: Callable[..., Job]) -> None:
    job = submit()
    assert add(database, job, {"a": [1.0], "b": [1.0]}, names_max=3) == set()
    assert add(database, job, {"b": [2.0], "c": [1.0], "d": [1.0]}, names_max=3) == {"d"}
    assert [summary.name for summary in Metrics(database).summaries(job.id)] == ["a", "b", "c"]


def test_what_is_not_finite_is_told_as_a_string() -> None:
    logged = [Logged(0, None, AT, {"a": 1.0, "b": -math.inf}), Logged(1, None, AT, {"a": float("nan")})]
    assert newest(logged) == {"a": "NaN", "b": "-Infinity"}
    assert readable(math.inf) == "Infinity"


@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_written_over_what_is_what_is_read(
    database: Database, submit: Callable[..., Job], seed: int
) -> None:
    job, draw = submit(), random.Random(seed)
    store, there = Metrics(database), {"a": {}, "b": {}}  # type: dict[str, dict[int, tuple[int, int | None, float]]]
    for _ in range(12):
        names = draw.choice([["a"], ["b"], ["a", "b"]])
        start, stride, replace = draw.randrange(3_000), draw.choice([1, 1, 7]), draw.random() < 0.7
        logged = [
            Logged(step, draw.choice([None, 3]), AT, {name: draw.choice([math.nan, math.inf, draw.random()])})
            for step in range(start, start + stride * draw.randrange(1, 900), stride)
            for name in names
        ]
        if draw.random() < 0.5:  # all names of a step at once, now and then in another order
            logged = [
                Logged(
                    one.step, one.epoch, AT, dict(draw.sample([(name, draw.random()) for name in names], len(names)))
                )
                for one in logged[:: len(names)]
            ]
        with database.write() as connection:
            store.add(connection, job.id, logged, 10, replace=replace)
        for one in logged:
            for name, value in one.values.items():
                point = {one.step: (one.step, one.epoch, value)}
                there[name] = there[name] | point if replace else point | there[name]
    for summary in store.summaries(job.id):
        expected = [there[summary.name][step] for step in sorted(there[summary.name])]
        first, last = draw.randrange(1_500), draw.randrange(1_500, 4_000)
        for from_step, to_step in [(None, None), (first, last), (first, None), (None, last)]:
            inside = [
                point
                for point in expected
                if (from_step is None or point[0] >= from_step) and (to_step is None or point[0] <= to_step)
            ]
            everything = store.series(job.id, summary.name, from_step=from_step, to_step=to_step, max_points=10_000)
            assert everything is not None
            assert [(one.step, one.epoch, repr(one.value), one.at) for one in everything.points] == [
                (step, epoch, repr(value), AT) for step, epoch, value in inside
            ]
            for most in (1, 3, 10, 50):
                series = store.series(job.id, summary.name, from_step=from_step, to_step=to_step, max_points=most)
                assert series is not None
                assert len(series.points) <= most
                assert series.points[-1].step == inside[-1][0]
                known = [value for _, _, value in inside if not math.isnan(value)]
                assert min(one.min for one in series.points if one.min is not None) == min(known)
                assert max(one.max for one in series.points if one.max is not None) == max(known)
        assert (summary.count, summary.first_step) == (len(expected), expected[0][0])
        assert repr(summary.last) == repr(expected[-1][2])


def test_points_that_come_one_by_one_fill_chunk_after_chunk(database: Database, submit: Callable[..., Job]) -> None:
    job, store = submit(), Metrics(database)
    with database.write() as connection:
        for step in range(POINTS_MAX + 3):
            store.add(connection, job.id, [Logged(step, 0, AT, {"loss": float(step)})], 10)
    series = store.series(job.id, "loss", max_points=1)
    assert series is not None
    assert [(one.step, one.min, one.max) for one in series.points] == [(POINTS_MAX + 2, 0.0, POINTS_MAX + 2.0)]
    assert store.summaries(job.id)[0].count == POINTS_MAX + 3


@pytest.mark.parametrize(
    "points",
    [
        [(0, None, 1.0, 0)],
        [(5, 0, 1.0, 0), (10, 0, math.inf, 7), (15, 0, -2.0, 3)],
        [(5, 0, 1.0, 0), (6, None, 2.0, 1), (60, 2**31 - 1, -0.0, 2)],
        [(0, 1, 1.0, 0), (2**62, 1, 2.0, 10**12), (2**63 - 1, 1, 3.0, -(10**12))],
    ],
)
def test_a_chunk_holds_what_was_packed(points: list[tuple[int, int | None, float, int]]) -> None:
    columns = Columns.empty()
    for step, epoch, value, microseconds in points:
        columns.add(step, epoch, value, AT + timedelta(microseconds=microseconds))
    found = unpack(pack(columns))
    assert found == columns
    assert [found.epoch(index) for index in range(len(found))] == [epoch for _, epoch, _, _ in points]
