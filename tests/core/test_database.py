import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic import command
from sqlalchemy import func, insert, inspect, select, update

from core.database import Database, alembic_config, downgrade, upgrade
from core.ids import is_id, new_id
from core.tables import metadata, projects


def test_migrations_go_up_down_and_up_again_and_match_the_tables(database_url: str) -> None:
    database = Database(database_url)
    upgrade(database)
    with warnings.catch_warnings():
        # SQLite cannot reflect an index on an expression (the queue's, by priority DESC), so it cannot be compared.
        warnings.filterwarnings("ignore", message="autogenerate skipping metadata-specified expression-based index")
        command.check(alembic_config(database))
    assert set(inspect(database.engine).get_table_names()) == {*metadata.tables, "alembic_version"}
    downgrade(database, "base")
    assert set(inspect(database.engine).get_table_names()) == {"alembic_version"}
    upgrade(database)
    assert set(inspect(database.engine).get_table_names()) == {*metadata.tables, "alembic_version"}
    database.close()


def test_transactions_that_read_first_and_write_later_never_collide(database: Database) -> None:
    with database.write() as connection:
        connection.execute(insert(projects).values(id="p", name="0", created_at=database.now(connection)))

    def count_up(_: int) -> None:
        with database.write() as connection:
            value = connection.execute(select(projects.c.name).with_for_update()).scalar_one()
            connection.execute(update(projects).values(name=str(int(value) + 1)))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(count_up, range(80)))
    with database.read() as connection:
        assert connection.execute(select(projects.c.name)).scalar_one() == "80"


def test_an_error_rolls_everything_back(database: Database) -> None:
    def fail() -> None:
        with database.write() as connection:
            connection.execute(insert(projects).values(id="p", name="n", created_at=database.now(connection)))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with database.read() as connection:
        assert connection.execute(select(func.count()).select_from(projects)).scalar_one() == 0


def test_ids_are_ordered_by_time_and_known_by_their_form() -> None:
    ids = [new_id("job") for _ in range(50)]
    assert len(set(ids)) == 50
    assert [id_[:14] for id_ in ids] == sorted(id_[:14] for id_ in ids)
    assert all(is_id("job", id_) for id_ in ids)
    assert not any(
        is_id("job", wrong) for wrong in ["job_", "ckpt_" + ids[0][4:], ids[0] + "0", ids[0].upper(), "job_" + "u" * 26]
    )
