"""Metric points lie packed in chunks, some hundred in a row of the table, instead of one a row."""

import math
import struct
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# The form of a chunk, as `core.metric_chunk` had it when this was written; that may change, this may not.
HEAD = struct.Struct("<BIqqqi")
STEPS_LISTED, EPOCHS_LISTED, MOMENTS_WIDE = 1, 2, 4
POINTS = 256
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

Row = tuple[int, int | None, float | None, datetime]
"""Step, epoch, value (None: NaN) and moment of a point."""

points = sa.table(
    "metric_points",
    sa.column("series_id", sa.BigInteger()),
    sa.column("step", sa.BigInteger()),
    sa.column("epoch", sa.Integer()),
    sa.column("value", sa.Double()),
    sa.column("at", sa.DateTime(timezone=True)),
)
chunks = sa.table(
    "metric_chunks",
    sa.column("series_id", sa.BigInteger()),
    sa.column("first_step", sa.BigInteger()),
    sa.column("last_step", sa.BigInteger()),
    sa.column("point_count", sa.Integer()),
    sa.column("low", sa.Double()),
    sa.column("high", sa.Double()),
    sa.column("last", sa.Double()),
    sa.column("last_epoch", sa.Integer()),
    sa.column("last_at", sa.DateTime(timezone=True)),
    sa.column("points", sa.LargeBinary()),
)
series = sa.table("metric_series", sa.column("id", sa.BigInteger()))


def upgrade() -> None:
    op.create_table(
        "metric_chunks",
        sa.Column("series_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("first_step", sa.BigInteger(), nullable=False),
        sa.Column("last_step", sa.BigInteger(), nullable=False),
        sa.Column("point_count", sa.Integer(), nullable=False),
        sa.Column("low", sa.Double(), nullable=True),
        sa.Column("high", sa.Double(), nullable=True),
        sa.Column("last", sa.Double(), nullable=True),
        sa.Column("last_epoch", sa.Integer(), nullable=True),
        sa.Column("last_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("points", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["series_id"],
            ["metric_series.id"],
            name=op.f("fk_metric_chunks_series_id_metric_series"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("series_id", "first_step", name=op.f("pk_metric_chunks")),
    )
    if op.get_bind().dialect.name == "postgresql":
        # Packed numbers do not compress: trying costs more than all the rest of writing them.
        op.execute("ALTER TABLE metric_chunks ALTER COLUMN points SET STORAGE EXTERNAL")
    for found in op.get_bind().execute(sa.select(series.c.id).order_by(series.c.id)).scalars().all():
        for rows in _rows(found):
            op.bulk_insert(chunks, [{"series_id": found, **_packed(rows)}])
    op.drop_table("metric_points")


def downgrade() -> None:
    op.create_table(
        "metric_points",
        sa.Column("series_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=True),
        sa.Column("value", sa.Double(), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["series_id"],
            ["metric_series.id"],
            name=op.f("fk_metric_points_series_id_metric_series"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("series_id", "step", name=op.f("pk_metric_points")),
        sqlite_with_rowid=False,
    )
    for found in op.get_bind().execute(sa.select(series.c.id).order_by(series.c.id)).scalars().all():
        for data in _chunks(found):
            rows = [
                {"series_id": found, "step": step, "epoch": epoch, "value": value, "at": _told(at)}
                for step, epoch, value, at in _unpacked(data)
            ]
            op.bulk_insert(points, rows)
    op.drop_table("metric_chunks")


def _rows(series_id: int) -> Iterator[Sequence[Row]]:
    """The points of a series, a chunk of them at a time."""
    query = sa.select(points.c.step, points.c.epoch, points.c.value, points.c.at).order_by(points.c.step).limit(POINTS)
    behind = -1
    while rows := op.get_bind().execute(query.where(points.c.series_id == series_id, points.c.step > behind)).all():
        yield [(row.step, row.epoch, row.value, row.at) for row in rows]
        behind = rows[-1].step


def _chunks(series_id: int) -> Iterator[bytes]:
    """The chunks of a series."""
    query = sa.select(chunks.c.first_step, chunks.c.points).order_by(chunks.c.first_step).limit(1)
    behind = -1
    while (
        row := op.get_bind().execute(query.where(chunks.c.series_id == series_id, chunks.c.first_step > behind)).first()
    ):
        yield row.points
        behind = row.first_step


def _packed(rows: Sequence[Row]) -> dict[str, Any]:
    """A row of the new table; in the plainest of the forms that a chunk may have."""
    steps, epochs, values, moments = zip(*rows, strict=True)
    at = [_aware(moment) for moment in moments]
    known = [value for value in values if value is not None]
    head = HEAD.pack(STEPS_LISTED | EPOCHS_LISTED | MOMENTS_WIDE, len(rows), steps[0], 1, 0, -1)
    body = struct.pack(f"<{len(rows)}q", *steps)
    body += struct.pack(f"<{len(rows)}i", *(-1 if epoch is None else epoch for epoch in epochs))
    body += struct.pack(f"<{len(rows)}q", *((moment - EPOCH) // MICROSECOND for moment in at))
    body += struct.pack(f"<{len(rows)}d", *(math.nan if value is None else value for value in values))
    return {
        "first_step": steps[0],
        "last_step": steps[-1],
        "point_count": len(rows),
        "low": min(known, default=None),
        "high": max(known, default=None),
        "last": values[-1],
        "last_epoch": epochs[-1],
        "last_at": _told(at[-1]),
        "points": head + body,
    }


def _unpacked(data: bytes) -> Iterator[Row]:
    """The points of a chunk, in any of its forms."""
    flags, count, first, stride, since, epoch = HEAD.unpack_from(data)
    place = HEAD.size

    def column(kind: str) -> Sequence[Any]:
        nonlocal place
        form = struct.Struct(f"<{count}{kind}")
        place += form.size
        return form.unpack_from(data, place - form.size)

    steps = column("q") if flags & STEPS_LISTED else [first + stride * index for index in range(count)]
    epochs = column("i") if flags & EPOCHS_LISTED else [epoch] * count
    at = column("q") if flags & MOMENTS_WIDE else [since + one for one in column("I")]
    for step, its_epoch, moment, value in zip(steps, epochs, at, column("d"), strict=True):
        known = None if math.isnan(value) else value
        yield step, None if its_epoch < 0 else its_epoch, known, EPOCH + timedelta(microseconds=moment)


def _aware(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def _told(moment: datetime) -> datetime:
    """SQLite has no time zones: it gets UTC, said nowhere."""
    return moment if op.get_bind().dialect.name == "postgresql" else moment.replace(tzinfo=None)
