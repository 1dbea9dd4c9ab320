import multiprocessing
import os
import shlex
import signal
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path

import psutil

from embedded.lineage import bound_to_parent
from tests.waiting import wait_until

RUNNER = """
import multiprocessing, os, sys
from embedded.runner import Runner

multiprocessing.set_start_method("fork")
runner = Runner(when_started=lambda: print("up", flush=True))
for name in sys.argv[1].split():
    runner.add(name, sys.argv[2] + " " + name, dict(os.environ), grace_seconds=0.5)
runner.loop()
print("ended:", runner.ended, runner.ended and runner.ended_how, flush=True)
if runner.ended:
    print("last:", runner.output.last_of(runner.ended), flush=True)
"""

PROCESS = """
import os, pathlib, signal, subprocess, sys, threading

name = sys.argv[1]
folder = pathlib.Path(os.environ["FOLDER"])
if name.startswith("failing"):
    print("the disk is full", flush=True)
    sys.exit(3)
if name.startswith("parent"):
    subprocess.Popen([sys.executable, __file__, "child"])

def stop(number, frame):
    with (folder / "stopped").open("a") as file:
        file.write(name + " ")
    if not name.startswith("stubborn"):
        sys.exit(0)

signal.signal(signal.SIGTERM, stop)
(folder / f"{name}.pid").write_text(str(os.getpid()))
while True:
    threading.Event().wait(60)
"""


class Run:
    """A runner in a process of its own, with processes that write down their ids and when they were told to stop."""

    def __init__(self, folder: Path, names: str) -> None:
        self.folder = folder
        self.names = [name for name in names.split() if not name.startswith("failing")]
        (folder / "process.py").write_text(textwrap.dedent(PROCESS))
        command = f"{shlex.quote(sys.executable)} {shlex.quote(str(folder / 'process.py'))}"
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUNNER, names, command],
            env=os.environ | {"FOLDER": str(folder)},
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=bound_to_parent(),
        )

    def wait_until_up(self) -> None:
        for name in self.names:
            path = self.folder / f"{name}.pid"
            wait_until(partial(written, path), what=f"{name} runs")
        self.family = psutil.Process(self.process.pid).children(recursive=True)
        assert len(self.family) >= 2 * len(self.names)  # each has a keeper

    def finish(self) -> str:
        output, _ = self.process.communicate(timeout=20)
        return output

    @property
    def stopped(self) -> list[str]:
        return (self.folder / "stopped").read_text().split()


def written(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def nobody_is_left(family: list[psutil.Process]) -> bool:
    return not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in family)


def test_a_signal_stops_the_processes_last_first(tmp_path: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        folder = tmp_path / number.name
        folder.mkdir()
        run = Run(folder, "broker api worker")
        run.wait_until_up()
        run.process.send_signal(number)
        assert "ended: None" in run.finish()
        assert run.stopped == ["worker", "api", "broker"]
        assert nobody_is_left(run.family)


def test_a_process_that_ends_is_named_with_its_last_lines_and_the_others_are_stopped(tmp_path: Path) -> None:
    run = Run(tmp_path, "broker failing worker")
    output = run.finish()
    assert "ended: failing exit status 3" in output
    assert "last: the disk is full" in output


def test_a_killed_process_is_named_with_its_signal(tmp_path: Path) -> None:
    run = Run(tmp_path, "broker api")
    run.wait_until_up()
    os.kill(int((tmp_path / "api.pid").read_text()), signal.SIGKILL)
    assert "ended: api killed by SIGKILL" in run.finish()
    assert run.stopped == ["broker"]
    assert nobody_is_left(run.family)


def test_a_process_that_ignores_the_signal_is_killed_after_its_grace(tmp_path: Path) -> None:
    run = Run(tmp_path, "broker stubborn")
    run.wait_until_up()
    run.process.terminate()
    run.finish()
    assert run.stopped == ["stubborn", "broker"]
    assert nobody_is_left(run.family)


def test_what_a_process_left_in_its_group_goes_with_it(tmp_path: Path) -> None:
    run = Run(tmp_path, "broker parent")
    child = wait_until(partial(written, tmp_path / "child.pid"), what="the child runs")
    run.wait_until_up()
    run.process.terminate()
    run.finish()
    assert nobody_is_left(run.family)
    assert not psutil.pid_exists(int(child)) or psutil.Process(int(child)).status() == psutil.STATUS_ZOMBIE


def test_nobody_outlives_a_runner_that_was_killed(tmp_path: Path) -> None:
    run = Run(tmp_path, "broker stubborn worker")
    run.wait_until_up()
    run.process.kill()
    run.process.wait()
    wait_until(lambda: nobody_is_left(run.family), what="all processes are gone")


def test_a_child_whose_parent_died_before_it_was_bound_ends_at_once() -> None:
    bind = bound_to_parent()

    def grandchild() -> None:
        bind()  # bound to the test's process, which is not its parent
        os._exit(0)

    def child() -> None:
        inner = multiprocessing.get_context("fork").Process(target=grandchild)
        inner.start()
        inner.join()
        os._exit(inner.exitcode or 0)

    outer = multiprocessing.get_context("fork").Process(target=child)
    outer.start()
    outer.join(10)
    assert outer.exitcode == 1
