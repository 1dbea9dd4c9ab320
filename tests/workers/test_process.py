import subprocess
import sys

PROGRAM = """
import sys
import workers.__main__, workers.supervisor, workers.announce
heavy = {"torch", "pytorch_lightning", "lightning_fabric", "numpy", "sklearn", "jsonargparse"} & set(sys.modules)
assert not heavy, heavy
"""


def test_the_worker_process_never_imports_torch() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


KILLED = """
import os, signal
import psutil
from tests.waiting import wait_until
from workers import forkserver

for _ in range(3):
    held = forkserver.Fork("time", "sleep", 60)
    os.kill(forkserver._server_pid(), signal.SIGKILL)  # it is not gone yet, and may still take a call
    after = forkserver.Fork("builtins", "bool")
    assert after.wait(30), "the fork has not ended"
    assert after.exit_code == 0 or after.lost_its_server, after.exit_code
    assert held.wait(10) and held.lost_its_server, "its fork server was killed"
    held.kill()
    wait_until(lambda: not psutil.pid_exists(held.pid), what="what the dead fork server had forked is gone")
"""


def test_a_fork_server_that_is_killed_takes_its_forks_along_and_another_forks_on() -> None:
    done = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
