"""Pausing, saving on request and preempting; leases counted by renewals, which no clock step can end."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

LIVE = sa.text("ended_at IS NULL")


# Columns are added and dropped in place, never by batch operations that make a table anew: on SQLite these drop the old
# table, and with its rows go, by ON DELETE CASCADE, the rows of all tables that refer to them.


def upgrade() -> None:
    op.add_column("jobs", sa.Column("pause_requested_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("jobs", sa.Column("checkpoint_requested_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("jobs", sa.Column("checkpoint_requests", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("retry_oom", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.drop_index("ix_attempts_lease", "attempts")
    op.drop_column("attempts", "lease_expires_at")
    op.add_column("attempts", sa.Column("lease_seconds", sa.Double(), nullable=False, server_default="15"))
    op.add_column("attempts", sa.Column("renewals", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("attempts", sa.Column("preempted_for", sa.String(length=40), nullable=True))
    # What fills the rows that were there is no default of the tables; SQLite cannot take it back in place.
    if op.get_bind().dialect.name == "postgresql":
        op.alter_column("jobs", "checkpoint_requests", server_default=None)
        op.alter_column("jobs", "retry_oom", server_default=None)
        op.alter_column("attempts", "lease_seconds", server_default=None)
        op.alter_column("attempts", "renewals", server_default=None)


def downgrade() -> None:
    op.drop_column("attempts", "preempted_for")
    op.drop_column("attempts", "renewals")
    op.drop_column("attempts", "lease_seconds")
    # Whoever holds a job when the schema goes back renews its lease or loses it.
    expired = sa.Column(
        "lease_expires_at", sa.DateTime(timezone=True), nullable=False, server_default="2000-01-01 00:00:00"
    )
    op.add_column("attempts", expired)
    op.create_index("ix_attempts_lease", "attempts", ["lease_expires_at"], sqlite_where=LIVE, postgresql_where=LIVE)
    if op.get_bind().dialect.name == "postgresql":
        op.alter_column("attempts", "lease_expires_at", server_default=None)
    op.drop_column("jobs", "retry_oom")
    op.drop_column("jobs", "checkpoint_requests")
    op.drop_column("jobs", "checkpoint_requested_at")
    op.drop_column("jobs", "pause_requested_at")
