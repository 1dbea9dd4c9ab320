"""Where the service is and which key opens it. Only this module reads the environment."""

import json
import math
import os
import tempfile
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from lightyard.errors import ConfigError
from lightyard.retry import Retry

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclass(frozen=True, slots=True)
class Address:
    """A service's base URL, without a trailing slash, and the API key, where there is one."""

    url: str
    key: str | None = field(default=None, repr=False)

    @property
    def is_local(self) -> bool:
        """Whether the service runs on this machine."""
        return urlsplit(self.url).hostname in LOOPBACK


def resolve(url: str | None = None, key: str | None = None) -> Address:
    """Find address and key: what is given, `LIGHTYARD_URL` and `LIGHTYARD_API_KEY`, the config file, the local default.

    A stored key goes only to where it belongs: the config file's to the config file's address, the local
    service's to this machine. So a different `--url` never sends a key to a stranger.
    Raises ConfigError on an address or a key of no usable form, or a config file that cannot be read.
    """
    # Nothing of the file is needed, or read, where both are given: a broken file must not stand in the way.
    url = url or os.environ.get("LIGHTYARD_URL")
    key = key or os.environ.get("LIGHTYARD_API_KEY")
    stored = Address("") if url and key else _read_config()
    found = Address(_checked_url(url or stored.url or f"http://127.0.0.1:{os.environ.get('LIGHTYARD_PORT') or 8000}"))
    if not key and stored.url and found.url == stored.url:
        key = stored.key
    if not key and found.is_local:
        key = _read_local_key()
    return Address(found.url, _checked_key(key) if key else None)


def config_path() -> Path:
    """The config file: `lightyard/config.toml` under `XDG_CONFIG_HOME`, or under `~/.config`."""
    home = os.environ.get("XDG_CONFIG_HOME")
    return (Path(home) if home else Path.home() / ".config") / "lightyard" / "config.toml"


def write_config(url: str, key: str) -> Path:
    """Store address and key for later calls, readable by the owner alone, whole or not at all.

    Returns the file's path. Raises ConfigError on an address or a key of no usable form, or when it cannot be written.
    """
    # Both are printable text after the check, for which a JSON string is a TOML basic string.
    pairs = {"url": _checked_url(url), "key": _checked_key(key)}
    text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in pairs.items())
    path = config_path()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # mkstemp makes its file with mode 0600: the key is never readable by others, not for a moment.
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".config-")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error
    return path


def retry() -> Retry:
    """The retry policy; `LIGHTYARD_RETRY_SECONDS` sets its budget."""
    text = os.environ.get("LIGHTYARD_RETRY_SECONDS")
    if not text:
        return Retry()
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ConfigError(f"LIGHTYARD_RETRY_SECONDS is {text!r}; it must be a number of seconds, 0 or more")
    return Retry(budget_seconds=seconds)


def _read_config() -> Address:
    path = config_path()
    try:
        with path.open("rb") as file:
            stored = tomllib.load(file)
    except FileNotFoundError:
        return Address("")
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path}: {error}; write it again with `lightyard login`") from error
    url, key = stored.get("url", ""), stored.get("key", "")
    if not isinstance(url, str) or not isinstance(key, str):
        raise ConfigError(f"{path}: url and key must be strings; write it again with `lightyard login`")
    return Address(url and _checked_url(url), key or None)


def _read_local_key() -> str | None:
    path = Path(os.environ.get("LIGHTYARD_HOME") or ".lightyard").expanduser() / "key"
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the local key at {path}: {error}") from error


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url.strip())
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    if not good or not url.isprintable() or parts.query or parts.fragment or parts.username or parts.password:
        raise ConfigError(f"{url!r} is no address of a service; one looks like http://127.0.0.1:8000")
    return url.strip().rstrip("/")


def _checked_key(key: str) -> str:
    key = key.strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError("the API key is empty or has characters that no key has")
    return key
