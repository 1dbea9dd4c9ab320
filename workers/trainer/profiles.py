"""The reports of Lightning's profilers, as artifacts that bear the same names in every attempt."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pytorch_lightning import Trainer
from pytorch_lightning.profilers import PassThroughProfiler, Profiler

NAME = "profile"
_TRACE = re.compile(r"(?P<stem>.*?)(\[Strategy\]\w+\.)?(?P<step>\w+)\.\d+\.pt\.trace\.json")
"""A Chrome trace as torch's handler names it: with the time, so that no attempt would find it again."""


def place(trainer: Trainer, artifacts: Path) -> None:
    """Have a Trainer's profiler, if it has one, write its report among the artifacts: `fit-profile.txt`."""
    profiler = _profiler(trainer)
    if profiler is not None:
        profiler.dirpath = artifacts
        profiler.filename = profiler.filename or NAME


@contextmanager
def kept(trainer: Trainer) -> Iterator[None]:
    """While it runs: its report is written however it ends. Lightning itself writes one only of a run that succeeds."""
    profiler = _profiler(trainer)
    if profiler is None:
        yield
        return
    try:
        yield
    except BaseException:
        _describe(profiler)
        raise
    finally:
        _rename_traces(Path(profiler.dirpath or "."))


def _profiler(trainer: Trainer) -> Profiler | None:
    found = getattr(trainer, "profiler", None)
    return found if isinstance(found, Profiler) and not isinstance(found, PassThroughProfiler) else None


def _describe(profiler: Profiler) -> None:
    """Write what was measured until the run was ended."""
    try:
        profiler.describe()
    except Exception as error:  # nothing measured yet, say: why the run ended is what counts
        sys.stderr.write(f"the profiler has no report: {error!r}\n")


def _rename_traces(folder: Path) -> None:
    for trace in sorted(folder.glob("*.pt.trace.json")):
        found = _TRACE.fullmatch(trace.name)
        if found is None:
            continue
        name, number = found["stem"] + found["step"], 1
        while (target := folder / f"{name}{f'-{number}' if number > 1 else ''}.trace.json").exists():
            number += 1
        with suppress(FileNotFoundError):  # another rank, which shares the folder, was first
            trace.rename(target)
