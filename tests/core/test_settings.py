import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from core.settings import Settings

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"


def test_the_docs_list_every_setting_with_its_default_and_no_other() -> None:
    rows = dict(re.findall(r"^\| `LIGHTYARD_(\w+)` \| (.*?) \|", OPERATIONS.read_text(), re.MULTILINE))
    fields = {name.upper(): field for name, field in Settings.model_fields.items()}
    assert set(rows) == set(fields)
    for name, field in fields.items():
        default = field.default
        told = ",".join(default) if isinstance(default, tuple) else "" if default is None else str(default)
        assert rows[name].strip("`") == told, name


def test_every_setting_says_what_it_is_for() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "70000"),
        ("LEASE_SECONDS", "0"),
        ("BODY_MAX_BYTES", "-1"),
        ("LOG_LEVEL", "loud"),
        ("PAGE_MAX_ROWS", "201"),
        ("DATA_SEEDING", "worker"),
        ("RETRY_BACKOFF_MAX_SECONDS", "601"),
        ("RETRY_BACKOFF_SECONDS", "601"),
    ],
)
def test_a_value_outside_its_limit_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"LIGHTYARD_{name}", value)
    with pytest.raises(ValidationError, match=name.lower()):
        Settings()


def test_the_embedded_default_lies_in_the_home_folder(tmp_path: Path) -> None:
    config = Settings(home=tmp_path / ("deep/" * 30))
    assert config.database == f"sqlite:///{config.home}/lightyard.db"
    assert config.storage == f"file://{config.home}/store"
    assert len(str(config.socket_path)) < 107, "a Unix socket's address is short, however deep the home"
    assert config.broker == f"redis+socket://{config.socket_path}?virtual_host=0"


def test_a_postgres_address_gets_its_driver_and_modules_are_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTYARD_CATALOG_MODULES", "models, mine ,")
    config = Settings(database_url="postgresql://u:p@h/d")
    assert config.database == "postgresql+psycopg://u:p@h/d"
    assert config.catalog_modules == ("models", "mine")
