"""The database: connections, transactions, time and migrations. A store verb is one transaction opened here."""

import argparse
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Insert,
    Interval,
    create_engine,
    event,
    func,
    inspect,
    literal,
    make_url,
    select,
    text,
    type_coerce,
)
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from core.settings import Settings, settings
from core.tables import Instant

if TYPE_CHECKING:
    from alembic.config import Config

SCHEMA_REVISION = "0005"
"""Head of the migrations. Written down, so that a start need not load Alembic only to see that all is well."""
READ_ONLY = "25006"
"""SQLSTATE of a PostgreSQL that has just handed over to another."""
MIGRATIONS = Path(__file__).resolve().parent.parent / "migrations"


class Database:
    """One database, SQLite or PostgreSQL, used from threads.

    Writing transactions on SQLite begin IMMEDIATE: one that reads first and writes later would otherwise fail at
    once when another process wrote in between.
    """

    def __init__(self, url: str, *, pool_size: int = 10, timeout_seconds: float = 15.0) -> None:
        self.engine = _engine(url, pool_size, timeout_seconds)
        self._writing = self.engine.execution_options(writes=True)
        self.is_sqlite = self.engine.dialect.name == "sqlite"
        # There, a transaction around them would only cost two more round trips.
        reading = {} if self.is_sqlite else {"isolation_level": "AUTOCOMMIT"}
        self._reading = self.engine.execution_options(**reading)

    @classmethod
    def of(cls, config: Settings) -> "Database":
        """The database that the settings name; makes the home folder where it is to lie in it."""
        if config.database.startswith("sqlite"):
            private_folder(config.home)
        return cls(
            config.database,
            pool_size=config.database_pool_size,
            timeout_seconds=config.database_timeout_seconds,
        )

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Some questions. On SQLite they see one state; on PostgreSQL each sees its own, as in any READ COMMITTED."""
        with self._reading.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that may write: commits at the end, rolls back on any error."""
        with self._writing.begin() as connection:
            yield connection

    def now(self, connection: Connection) -> datetime:
        """The database's time, which is one for all, whatever the machines' own clocks say."""
        if self.is_sqlite:
            return datetime.now(UTC)
        moment: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
        return moment

    def clock(self, ago: timedelta = timedelta()) -> ColumnElement[Any]:
        """The same time, or some time before it, as part of a statement, which spares the question for it."""
        if self.is_sqlite:
            return literal(datetime.now(UTC) - ago, Instant())
        moment: ColumnElement[Any] = func.statement_timestamp(type_=Instant())
        return type_coerce(moment - literal(ago, Interval()), Instant()) if ago else moment

    def stamping(self, statement: Insert, *columns: str) -> Insert:
        """An INSERT, made once, whose rows have the time of their writing in these columns."""
        return statement if self.is_sqlite else statement.values(dict.fromkeys(columns, self.clock()))

    def stamped(self, *columns: str) -> dict[str, datetime]:
        """What a statement of `stamping` is to be given for them."""
        return dict.fromkeys(columns, datetime.now(UTC)) if self.is_sqlite else {}

    def insert(self, table: Any) -> Any:
        """An INSERT that knows `ON CONFLICT`, in this database's dialect."""
        if self.is_sqlite:
            from sqlalchemy.dialects.sqlite import insert as sqlite_insert

            return sqlite_insert(table)
        from sqlalchemy.dialects.postgresql import insert as postgresql_insert

        return postgresql_insert(table)

    def close(self) -> None:
        """Give all connections back."""
        self.engine.dispose()


def is_outage(error: SQLAlchemyError) -> bool:
    """Whether the same may work later, because the database is away or busy; what is wrong with the data stays so."""
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    if isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) == READ_ONLY:
        return True
    return isinstance(error, (OperationalError, PoolTimeout))


def private_folder(path: Path) -> Path:
    """Make a folder that only its owner can enter; one that exists is left as it is."""
    if not path.exists():
        path.mkdir(mode=stat.S_IRWXU, parents=True, exist_ok=True)
    return path


def upgrade(database: Database, revision: str = "head") -> None:
    """Bring the schema to a revision, forwards."""
    from alembic import command

    command.upgrade(alembic_config(database), revision)


def downgrade(database: Database, revision: str) -> None:
    """Bring the schema back to a revision."""
    from alembic import command

    command.downgrade(alembic_config(database), revision)


def alembic_config(database: Database) -> "Config":
    """Alembic's configuration for a database, without an ini file."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["engine"] = database.engine
    return config


def is_current(database: Database) -> bool:
    """Whether the schema is the one of this version. Raises `OperationalError` when the database cannot be reached."""
    with database.read() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return False
        found = connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all()
    return found == [SCHEMA_REVISION]


def wait_for(database: Database, deadline_seconds: float = 60.0) -> None:
    """Return once the database answers.

    Raises the last `OperationalError` when it does not within the deadline.
    """
    deadline = time.monotonic() + deadline_seconds
    while True:
        try:
            with database.read() as connection:
                connection.execute(select(1))
        except OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return


def _engine(url: str, pool_size: int, timeout_seconds: float) -> Engine:
    codec: dict[str, Any] = {
        "json_serializer": lambda value: orjson.dumps(value).decode(),
        "json_deserializer": orjson.loads,
    }
    if make_url(url).get_backend_name() != "sqlite":
        return create_engine(
            url,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=timeout_seconds,
            pool_pre_ping=True,
            connect_args={
                "connect_timeout": max(2, int(timeout_seconds)),
                # A network that swallows packets is noticed within 20 s; by default it takes TCP minutes to hours.
                "keepalives_idle": 5,
                "keepalives_interval": 5,
                "keepalives_count": 3,
                "tcp_user_timeout": 15_000,  # milliseconds
                "options": f"-c statement_timeout={int(timeout_seconds * 1000)} -c timezone=UTC",
            },
            **codec,
        )
    engine = create_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=timeout_seconds,
        connect_args={"timeout": timeout_seconds, "check_same_thread": False},
        **codec,
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: DBAPIConnection, _record: object) -> None:
        connection.isolation_level = None  # SQLAlchemy, not the driver, says when a transaction begins
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "journal_size_limit=67108864"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def main() -> None:
    """`python -m core.database upgrade`: migrate, and make the project and the first key where there are none."""
    from core.security import first_start

    parser = argparse.ArgumentParser(prog="python -m core.database", description=main.__doc__)
    parser.add_argument("action", choices=["upgrade", "downgrade"])
    parser.add_argument("revision", nargs="?")
    arguments = parser.parse_args()
    database = Database.of(settings())
    wait_for(database)
    if arguments.action == "downgrade":
        if not arguments.revision:
            parser.error("downgrade needs the revision to go back to (`base` is the empty database)")
        downgrade(database, arguments.revision)
    else:
        upgrade(database, arguments.revision or "head")
        if not arguments.revision:
            first_start(database, settings().key_path)
    database.close()


if __name__ == "__main__":
    main()
