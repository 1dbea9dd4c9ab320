"""The queue in its order and the jobs of a name are found without a look at all the others."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

WAITING = sa.text("status = 'queued'")
NAMED = sa.text("name IS NOT NULL")


def upgrade() -> None:
    columns = [sa.text("priority DESC"), "id", "accelerator", "devices", "available_at"]
    op.create_index("ix_jobs_waiting", "jobs", columns, sqlite_where=WAITING, postgresql_where=WAITING)
    columns = ["project_id", "name", "id"]
    op.create_index("ix_jobs_name", "jobs", columns, sqlite_where=NAMED, postgresql_where=NAMED)


def downgrade() -> None:
    op.drop_index("ix_jobs_name", "jobs")
    op.drop_index("ix_jobs_waiting", "jobs")
