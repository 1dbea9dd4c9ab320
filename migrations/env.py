"""Alembic's entry: runs the migrations on the engine that `core.database` hands over."""

from alembic import context
from sqlalchemy import Connection, event

from core.tables import metadata

engine = context.config.attributes["engine"]


def _take_your_time(connection: Connection) -> None:
    """A migration of a large table may take longer than any statement of the service is allowed to."""
    connection.exec_driver_sql("SET LOCAL statement_timeout = 0")


with engine.connect() as connection:
    if connection.dialect.name == "postgresql":
        event.listen(connection, "begin", _take_your_time)
    context.configure(
        connection=connection,
        target_metadata=metadata,
        compare_type=True,
        render_as_batch=connection.dialect.name == "sqlite",
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()
    connection.commit()
