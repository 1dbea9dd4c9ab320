"""Where a job starts from, what it is checked for, what it turned out to be, and on how many machines it runs."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

FILLED = {
    "nodes": sa.Column("nodes", sa.Integer(), nullable=False, server_default="1"),
    "stop_on_nan": sa.Column("stop_on_nan", sa.Boolean(), nullable=False, server_default=sa.false()),
    "dry_run": sa.Column("dry_run", sa.Boolean(), nullable=False, server_default=sa.false()),
}


def upgrade() -> None:
    op.add_column("jobs", sa.Column("start_checkpoint_id", sa.String(length=40), nullable=True))
    op.add_column("jobs", sa.Column("weights_checkpoint_id", sa.String(length=40), nullable=True))
    op.add_column("jobs", sa.Column("summary", sa.JSON(), nullable=True))
    for name, column in FILLED.items():
        op.add_column("jobs", column)
        # What fills the rows that were there is no default of the tables; SQLite cannot take it back in place.
        if op.get_bind().dialect.name == "postgresql":
            op.alter_column("jobs", name, server_default=None)


def downgrade() -> None:
    for name in (*FILLED, "summary", "weights_checkpoint_id", "start_checkpoint_id"):
        op.drop_column("jobs", name)
