"""From what is really raised when a disk is full or a DataLoader worker is killed, to what the job is told."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from workers.trainer.outcome import of_error

FULL = Path("/dev/full")
"""A file on a disk without room (full(4))."""


class Ending(Dataset[int]):
    """Its worker process comes to an end of the kind asked for, at the second item."""

    def __init__(self, end: Callable[[], Any]) -> None:
        self.end = end

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        if index:
            self.end()
        return index


@pytest.fixture(autouse=True)
def _torch_hears_of_its_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another test may have taken SIGCHLD from torch, which installs its handler once in a process."""
    monkeypatch.setattr("torch.utils.data._utils.signal_handling._SIGCHLD_handler_set", False)


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def exited() -> None:
    os._exit(3)


def crashed() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def raised_by(run: Callable[[], Any]) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011  # what it is, is the question
        run()
    return caught.value


def of_loader(end: Callable[[], Any]) -> Exception:
    return raised_by(lambda: list(DataLoader(Ending(end), num_workers=1)))


def give_up(error: BaseException) -> Exception:
    """What Lightning raises when its teardown fails on the way out."""

    def run() -> None:
        try:
            raise error
        except BaseException:
            raise RuntimeError("Please call `iter(combined_loader)` first.")  # noqa: B904  # as Lightning does

    return raised_by(run)


def test_a_loaders_worker_that_is_killed_from_outside_is_no_fault_of_the_code() -> None:
    outcome = of_error(of_loader(killed))
    assert (outcome.status, outcome.code) == ("lost", "worker_lost")
    assert "killed by signal: Killed" in (outcome.message or "")


def test_it_is_none_either_where_torch_or_lightning_raise_something_else_because_of_it() -> None:
    error = RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly")
    error.__cause__ = of_loader(killed)
    assert of_error(error).status == "lost"
    assert of_error(give_up(error)).status == "lost"


@pytest.mark.parametrize("end", [exited, crashed])
def test_a_loaders_worker_that_ends_by_itself_is_a_fault_of_the_code(end: Callable[[], Any]) -> None:
    outcome = of_error(of_loader(end))
    assert (outcome.status, outcome.code) == ("failed", "user_error")


def test_a_full_disk_is_told_as_one_by_whatever_means_it_was_met() -> None:
    with FULL.open("wb", buffering=0) as file:
        by_number = raised_by(lambda: file.write(b"1"))
    by_name = raised_by(lambda: torch.save({"w": torch.zeros(2000)}, FULL))
    with FULL.open("wb", buffering=0) as file:
        by_file = raised_by(lambda: torch.save({"w": torch.zeros(2000)}, file))
    for error in (by_number, by_name, by_file):
        outcome = of_error(error)
        assert (outcome.status, outcome.code) == ("failed", "out_of_disk"), outcome
        buried = of_error(give_up(error))
        assert (buried.code, buried.message) == ("out_of_disk", outcome.message)
        assert "combined_loader" in (buried.traceback or "")


def test_an_error_of_the_code_is_told_as_it_was_raised() -> None:
    outcome = of_error(give_up(KeyError("x")))
    assert (outcome.status, outcome.code) == ("failed", "user_error")
    assert outcome.message == "RuntimeError: Please call `iter(combined_loader)` first."
