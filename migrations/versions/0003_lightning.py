"""Where a job starts from, what it is checked for, what it turned out to be, and on how many machines it runs."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

SEVERAL = sa.text("nodes > 1")
DRY_RUNS = sa.text("dry_run")
FILLED = {
    "nodes": sa.Column("nodes", sa.Integer(), nullable=False, server_default="1"),
    "stop_on_nan": sa.Column("stop_on_nan", sa.Boolean(), nullable=False, server_default=sa.false()),
    "dry_run": sa.Column("dry_run", sa.Boolean(), nullable=False, server_default=sa.false()),
}
ORIGINS = ("start_checkpoint_id", "weights_checkpoint_id")
OF_SEVERAL_MACHINES = {
    "attempts": {"dismissed": sa.Column("dismissed", sa.Boolean(), nullable=False, server_default=sa.false())},
    "workers": {
        "address": sa.Column("address", sa.String(length=255), nullable=False, server_default="127.0.0.1"),
        "accepts": sa.Column("accepts", sa.Boolean(), nullable=False, server_default=sa.false()),
    },
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
    op.create_index("ix_jobs_dry_runs", "jobs", ["finished_at"], sqlite_where=DRY_RUNS, postgresql_where=DRY_RUNS)
    _add_origins()
    _add_several_machines()


def _add_origins() -> None:
    op.add_column("checkpoints", sa.Column("let_go", sa.Boolean(), nullable=False, server_default=sa.false()))
    if op.get_bind().dialect.name == "postgresql":
        op.alter_column("checkpoints", "let_go", server_default=None)
    for name in ORIGINS:
        given = sa.text(f"{name} IS NOT NULL")
        op.create_index(f"ix_jobs_{name}", "jobs", [name], sqlite_where=given, postgresql_where=given)
    op.create_index(
        "ix_checkpoints_let_go",
        "checkpoints",
        ["id"],
        sqlite_where=sa.text("let_go = 1"),
        postgresql_where=sa.text("let_go"),
    )


def _remove_origins() -> None:
    op.drop_index("ix_checkpoints_let_go", "checkpoints")
    for name in ORIGINS:
        op.drop_index(f"ix_jobs_{name}", "jobs")
    op.drop_column("checkpoints", "let_go")


def _add_several_machines() -> None:
    op.create_index(
        "ix_jobs_gangs",
        "jobs",
        ["status", sa.text("priority DESC"), "id"],
        sqlite_where=SEVERAL,
        postgresql_where=SEVERAL,
    )
    op.add_column("attempts", sa.Column("rendezvous", sa.String(length=255), nullable=True))
    for table, columns in OF_SEVERAL_MACHINES.items():
        for name, column in columns.items():
            op.add_column(table, column)
            if op.get_bind().dialect.name == "postgresql":
                op.alter_column(table, name, server_default=None)
    op.create_table(
        "members",
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("node_rank", sa.Integer(), nullable=False),
        sa.Column("worker_id", sa.String(length=40), nullable=False),
        sa.Column("worker", sa.String(length=255), nullable=False),
        sa.Column("devices", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("lease_seconds", sa.Double(), nullable=False),
        sa.Column("renewals", sa.Integer(), nullable=False),
        sa.Column("end", sa.JSON(), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_members_job_id_jobs", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "attempt", "node_rank", name="pk_members"),
    )
    op.create_index("ix_members_worker_id", "members", ["worker_id", "state"])
    op.create_table(
        "rank_log_chunks",
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        sa.Column("length", sa.Integer(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_rank_log_chunks_job_id_jobs", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "rank", "attempt", "offset", name="pk_rank_log_chunks"),
    )


def _remove_several_machines() -> None:
    op.drop_table("rank_log_chunks")
    op.drop_index("ix_members_worker_id", "members")
    op.drop_table("members")
    for table, columns in OF_SEVERAL_MACHINES.items():
        for name in columns:
            op.drop_column(table, name)
    op.drop_column("attempts", "rendezvous")
    op.drop_index("ix_jobs_gangs", "jobs")


def downgrade() -> None:
    _remove_several_machines()
    _remove_origins()
    op.drop_index("ix_jobs_dry_runs", "jobs")
    for name in (*FILLED, "summary", "weights_checkpoint_id", "start_checkpoint_id"):
        op.drop_column("jobs", name)
