import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from core.settings import Settings
from embedded.broker import BrokerError, claim_socket, command_line, server_binary
from embedded.lineage import bound_to_parent
from tests.servers import NO_RETRY, answers
from tests.waiting import wait_until


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose path leaves room for a socket's; pytest's own may not."""
    folder = Path(tempfile.mkdtemp(prefix="ly-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def environment(home: Path, short_folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setattr(tempfile, "tempdir", str(short_folder))
    return os.environ | {"LIGHTYARD_HOME": str(home), "TMPDIR": str(short_folder)}


def start_broker(environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "embedded.broker"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=bound_to_parent(),
    )


def on_socket(path: Path) -> redis.Redis:
    return redis.Redis(unix_socket_path=str(path), retry=NO_RETRY)


def test_the_broker_keeps_its_messages_over_a_restart_and_a_kill(home: Path, environment: dict[str, str]) -> None:
    path = Settings(home=home).socket_path
    for number, kept in ((signal.SIGKILL, []), (signal.SIGTERM, [b"job_1"])):
        broker = start_broker(environment)
        wait_until(lambda: answers(on_socket(path)), what="the broker answers")
        with on_socket(path) as client:
            assert client.lrange("celery", 0, -1) == kept
            if not kept:
                client.rpush("celery", "job_1")
        broker.send_signal(number)
        broker.communicate(timeout=10)


def test_the_socket_is_for_its_owner_alone(home: Path, environment: dict[str, str]) -> None:
    path = Settings(home=home).socket_path
    broker = start_broker(environment)
    wait_until(lambda: answers(on_socket(path)), what="the broker answers")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    broker.terminate()
    broker.communicate(timeout=10)


def test_a_second_broker_in_the_same_home_says_that_one_runs(home: Path, environment: dict[str, str]) -> None:
    path = Settings(home=home).socket_path
    broker = start_broker(environment)
    wait_until(lambda: answers(on_socket(path)), what="the broker answers")
    second = start_broker(environment)
    output, _ = second.communicate(timeout=10)
    assert second.returncode == 1
    assert "already running in this home" in output
    assert answers(on_socket(path))
    broker.terminate()
    broker.communicate(timeout=10)


def test_a_dead_servers_socket_is_removed(short_folder: Path) -> None:
    path = short_folder / "of-this-home" / "broker.sock"
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    claim_socket(path)
    assert not path.exists()


def test_a_server_that_is_silent_is_not_taken_for_dead(short_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedded.broker.PROBE_SECONDS", 0.1)
    path = short_folder / "broker.sock"
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(str(path))
        busy.listen()
        with pytest.raises(BrokerError, match="already running"):
            claim_socket(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a folder somebody else's")
def test_a_socket_folder_of_somebody_elses_is_refused(short_folder: Path) -> None:
    os.chown(short_folder, 65534, 65534)
    with pytest.raises(BrokerError, match="belongs to somebody else"):
        claim_socket(short_folder / "broker.sock")


def test_a_link_in_place_of_the_socket_folder_is_refused(short_folder: Path) -> None:
    (short_folder / "target").mkdir()
    (short_folder / "link").symlink_to(short_folder / "target")
    with pytest.raises(BrokerError, match="belongs to somebody else"):
        claim_socket(short_folder / "link" / "broker.sock")


def test_a_path_too_long_for_a_socket_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(BrokerError, match="TMPDIR"):
        claim_socket(tmp_path / ("x" * 100) / "broker.sock")


def test_a_server_on_the_path_goes_before_the_wheels(short_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    carried = server_binary()
    monkeypatch.setenv("PATH", str(short_folder))
    for name in ("redis-server", "valkey-server"):
        shutil.copy2(carried, short_folder / name)
        assert server_binary() == short_folder / name
    (short_folder / "valkey-server").unlink()
    (short_folder / "redis-server").unlink()
    assert os.access(server_binary(), os.X_OK)


def test_the_broker_listens_on_no_port(home: Path) -> None:
    arguments = command_line(Path("valkey-server"), Settings(home=home))
    assert arguments[arguments.index("--port") + 1] == "0"
