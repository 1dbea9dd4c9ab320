import multiprocessing
import os
import signal
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from models.data.cache import cache_dir, prepare_once

fork = multiprocessing.get_context("fork")
DEADLINE_SECONDS = 20


def prepare(path: Path, log: Path, arrived: Event, other_arrived: Event) -> None:
    def write(part: Path) -> None:
        assert other_arrived.wait(DEADLINE_SECONDS)  # so that both want the file while it is being made
        with log.open("a") as file:
            file.write("written\n")
        part.write_text("whole")

    arrived.set()
    prepare_once(path, write)
    os._exit(0 if path.read_text() == "whole" else 1)


def test_two_processes_at_once_prepare_once(tmp_path: Path) -> None:
    path, log = tmp_path / "cache" / "data", tmp_path / "log"
    events = fork.Event(), fork.Event()
    processes = [fork.Process(target=prepare, args=(path, log, *pair)) for pair in (events, events[::-1])]
    for process in processes:
        process.start()
    for process in processes:
        process.join(DEADLINE_SECONDS)

    assert [process.exitcode for process in processes] == [0, 0]
    assert log.read_text() == "written\n"


def test_a_process_killed_while_it_writes_leaves_no_file_and_no_lock_behind(tmp_path: Path) -> None:
    path = tmp_path / "data"

    def die(part: Path) -> None:
        part.write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)

    process = fork.Process(target=prepare_once, args=(path, die))
    process.start()
    process.join(DEADLINE_SECONDS)
    assert process.exitcode == -signal.SIGKILL
    assert not path.exists()

    def write(part: Path) -> None:
        part.write_text("whole")

    prepare_once(path, write)
    assert path.read_text() == "whole"


def test_a_writer_that_fails_leaves_nothing_but_its_error(tmp_path: Path) -> None:
    path = tmp_path / "data"

    def fail(part: Path) -> None:
        part.write_text("half")
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        prepare_once(path, fail)
    assert [entry.name for entry in tmp_path.iterdir()] in ([], ["data.lock"])


def test_a_file_that_is_there_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_text("mine")

    prepare_once(path, lambda part: pytest.fail("it was written again"))

    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    ("data_dir", "variable", "expected"),
    [
        ("/data", "/caches", "/data"),
        (None, "/caches", "/caches/lightyard-models"),
        (None, "", "/home/me/.cache/lightyard-models"),
        (None, "relative", "/home/me/.cache/lightyard-models"),
        ("~/data", "", "/home/me/data"),
    ],
)
def test_the_folder_is_the_one_given_or_in_the_users_cache(
    monkeypatch: pytest.MonkeyPatch, data_dir: str | None, variable: str, expected: str
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("XDG_CACHE_HOME", variable)

    assert cache_dir(data_dir) == Path(expected)
