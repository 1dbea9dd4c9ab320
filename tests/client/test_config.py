import stat
from pathlib import Path

import pytest

from lightyard import ConfigError
from lightyard.config import Address, config_path, resolve, retry, write_config


def make_local_key(folder: Path, key: str = "ly_local") -> None:
    folder.mkdir(parents=True)
    (folder / "key").write_text(key + "\n")


def test_nothing_set_is_the_local_service_without_a_key() -> None:
    assert resolve() == Address("http://127.0.0.1:8000", None)


def test_the_local_service_is_found_by_its_port_and_its_key_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_local_key(tmp_path / "state")
    monkeypatch.setenv("LIGHTYARD_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("LIGHTYARD_PORT", "8123")

    assert resolve() == Address("http://127.0.0.1:8123", "ly_local")


def test_the_local_key_is_looked_for_in_the_current_folder(tmp_path: Path) -> None:
    make_local_key(tmp_path / ".lightyard")

    assert resolve().key == "ly_local"


def test_what_is_given_wins_over_the_environment_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    write_config("https://file.example.org", "ly_file")
    assert resolve() == Address("https://file.example.org", "ly_file")

    monkeypatch.setenv("LIGHTYARD_URL", "https://environment.example.org/")
    monkeypatch.setenv("LIGHTYARD_API_KEY", "ly_environment")
    assert resolve() == Address("https://environment.example.org", "ly_environment")

    assert resolve("https://given.example.org", "ly_given") == Address("https://given.example.org", "ly_given")


def test_a_stored_key_never_goes_to_another_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_local_key(tmp_path / ".lightyard")
    write_config("https://file.example.org", "ly_file")

    assert resolve("https://stranger.example.org").key is None
    assert resolve("http://127.0.0.1:9").key == "ly_local"
    assert resolve("https://file.example.org/").key == "ly_file"


def test_the_config_file_is_readable_by_its_owner_alone() -> None:
    path = write_config("https://example.org", "ly_first")
    path.chmod(0o644)

    write_config("https://example.org", "ly_second")

    assert path == config_path()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert resolve().key == "ly_second"
    assert [one.name for one in path.parent.iterdir()] == ["config.toml"]


def test_a_key_with_quotes_and_backslashes_survives_the_file() -> None:
    key = 'ly_"\\"\\u0041#=[x]'
    write_config("https://example.org", key)

    assert resolve().key == key


@pytest.mark.parametrize(
    "url",
    [
        "example.org",
        "ftp://example.org",
        "http://",
        "http://a:x",
        "http://u:p@a",
        "http://a/?q=1",
        "http://a\n.org",
        "http://[:",
    ],
)
def test_an_address_of_no_usable_form_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="no address"):
        resolve(url)


@pytest.mark.parametrize("key", ["a b", "a\nb", "ключ", " "])
def test_a_key_that_no_header_can_carry_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match="API key"):
        resolve("https://example.org", key)


def test_a_key_is_not_in_the_text_of_its_address() -> None:
    assert "ly_secret" not in repr(Address("https://example.org", "ly_secret"))


@pytest.mark.parametrize("text", ["url = ", "url = 3", "\xff"])
def test_a_broken_config_file_is_named_and_harms_only_those_who_need_it(text: str) -> None:
    path = config_path()
    path.parent.mkdir(parents=True)
    path.write_bytes(text.encode("latin-1"))

    with pytest.raises(ConfigError, match=r"config\.toml"):
        resolve()
    assert resolve("https://example.org", "ly_given").key == "ly_given"


def test_the_retry_budget_is_set_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTYARD_RETRY_SECONDS", "2.5")
    assert retry().budget_seconds == 2.5

    for bad in ("soon", "-1", "nan", "inf"):
        monkeypatch.setenv("LIGHTYARD_RETRY_SECONDS", bad)
        with pytest.raises(ConfigError):
            retry()
