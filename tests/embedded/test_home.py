import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from embedded.home import HomeError, address, check_port, free_port, only_stack_in
from embedded.lineage import bound_to_parent


def test_a_second_stack_in_one_home_is_refused_with_the_firsts_pid(home: Path) -> None:
    with (
        only_stack_in(home),
        pytest.raises(HomeError, match=f"process {os.getpid()} already serves"),
        only_stack_in(home),
    ):
        pass


def test_a_home_is_free_again_when_its_stack_has_stopped(home: Path) -> None:
    for _ in range(2):
        with only_stack_in(home):
            assert (home / "serve.lock").read_text() == f"{os.getpid()}\n"


def test_a_home_is_free_again_when_its_stack_was_killed(home: Path) -> None:
    script = "import sys, signal, pathlib, embedded.home as h\nwith h.only_stack_in(pathlib.Path(sys.argv[1])): "
    holder = subprocess.Popen(
        [sys.executable, "-c", script + "print('held', flush=True); signal.pause()", str(home)],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=bound_to_parent(),
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(HomeError, match=f"process {holder.pid} "), only_stack_in(home):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    with only_stack_in(home):
        pass


def test_a_port_in_use_is_refused_with_the_variable_that_changes_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(HomeError, match=r"in use.*LIGHTYARD_PORT"):
        check_port("127.0.0.1", server.getsockname()[1])


def test_an_address_that_is_not_this_machines_is_refused() -> None:
    with pytest.raises(HomeError, match="LIGHTYARD_HOST"):
        check_port("192.0.2.1", 8000)


def test_a_free_port_can_be_listened_on() -> None:
    check_port("127.0.0.1", free_port("127.0.0.1"))


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::", "http://[::1]:8000"),
        ("yard.example", "http://yard.example:8000"),
    ],
)
def test_the_address_is_one_that_a_client_here_can_reach(host: str, expected: str) -> None:
    assert address(host, 8000) == expected
