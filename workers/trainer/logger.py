"""The Lightning logger of a job: logged values go to the spool, as plain floats, and from there to the API."""

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only

from workers.trainer.spool import Spool


class SpoolLogger(Logger):
    """Writes metrics to the spool of a run directory."""

    def __init__(self, spool: Spool, folder: Path) -> None:
        super().__init__()
        self._spool = spool
        self._folder = folder

    @property
    def name(self) -> str:
        """Empty: the run directory itself is the place of the run's files."""
        return ""

    @property
    def version(self) -> str:
        """Empty, for the same reason."""
        return ""

    @property
    def save_dir(self) -> str:
        """The run directory, where Lightning puts files that have no other place."""
        return str(self._folder)

    @property
    def experiment(self) -> "NoExperiment":
        """Nothing: what modules do to the experiment of a logger they do not have is ignored, as in Lightning."""
        return NoExperiment()

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Report values that Lightning has already reduced to floats; `step` counts from 0."""
        epoch = metrics.get("epoch")
        values = {name: float(value) for name, value in metrics.items() if name != "epoch"}
        self._spool.metrics(values, step or 0, None if epoch is None else int(epoch))

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *_: Any, **__: Any) -> None:
        """Nothing: the job's config holds them already."""

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is buffered."""
        self._spool.flush()


class NoExperiment:
    """Stands where another logger has its client: every attribute, call and item is nothing again."""

    def __getattr__(self, name: str) -> "NoExperiment":
        return self

    def __call__(self, *_: Any, **__: Any) -> "NoExperiment":
        """Nothing comes of it."""
        return self

    def __getitem__(self, key: object) -> "NoExperiment":
        return self
