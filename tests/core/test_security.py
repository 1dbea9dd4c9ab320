import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import func, select

from core.database import Database
from core.errors import Unauthorized
from core.security import authenticate, first_start
from core.tables import api_keys


def test_the_first_start_makes_one_key_that_only_its_owner_can_read(database: Database, tmp_path: Path) -> None:
    path = tmp_path / "new" / "key"
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: first_start(database, path), range(4)))
    first_start(database, path)
    key = path.read_text().strip()
    assert key.startswith("ly_")
    assert len(key) > 40
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["key"]
    assert authenticate(database, key).project == "default"
    with database.read() as connection:
        assert connection.execute(select(func.count()).select_from(api_keys)).scalar_one() == 1


def test_a_key_file_that_is_there_already_is_the_key(database: Database, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("ly_chosen-by-the-operator\n")
    first_start(database, tmp_path / "key")
    assert authenticate(database, "ly_chosen-by-the-operator").project == "default"


@pytest.mark.parametrize("key", ["", "ly_wrong", "x" * 10_000])
def test_an_unknown_key_is_nobody(database: Database, key: str) -> None:
    with pytest.raises(Unauthorized):
        authenticate(database, key)
