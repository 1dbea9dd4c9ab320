"""The Lightning logger of a job: logged values go to the spool, as plain floats, and from there to the API."""

from argparse import Namespace
from collections.abc import Iterator, Mapping
from typing import Any

from lightning_fabric.loggers.logger import rank_zero_experiment
from pytorch_lightning import Trainer
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only

from workers.rundir import Order, RunDir
from workers.trainer.experiment import Experiment
from workers.trainer.logged_files import LoggedFiles
from workers.trainer.spool import Spool

IGNORED_MAX = 50
"""Most different calls of which it is said that they are not kept."""
STEP_MAX = 2**63 - 1
EPOCH_MAX = 2**31 - 1


class SpoolLogger(Logger):
    """Writes metrics to the spool of a run directory, and other things that are logged into files beside it."""

    def __init__(self, spool: Spool, run: RunDir, order: Order) -> None:
        super().__init__()
        self.trainer: Trainer | None = None
        """Whose step and epoch are meant where a call names none."""
        self._spool = spool
        self._folder = run.path
        self._artifacts = run.artifacts
        files = LoggedFiles(spool, run.outbox, order.logged_files_max_count, order.logged_files_max_bytes)
        self._experiment = Experiment(self, files)
        self._ignored: set[tuple[str, str]] = set()

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
    def log_dir(self) -> str:
        """Where modules put files of their own: they become artifacts."""
        others = (logger.log_dir for logger in self._others())
        return next((folder for folder in others if folder), str(self._artifacts))

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """What takes TensorBoard's calls; on ranks other than the first, nothing, as with Lightning's own loggers."""
        theirs: Any = next(iter(self._others()), None)
        return self._experiment if theirs is None else Both(self._experiment, theirs.experiment)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Report values; `step` counts from 0. What is no number is not kept."""
        if self.only_checks():
            return
        values: dict[str, float] = {}
        for name, value in _flat(metrics):
            try:
                values[name] = float(value)
            except (TypeError, ValueError, RuntimeError) as error:
                self.ignored("log_metrics", f"{name[:100]}: {type(error).__name__}: {error}"[:300])
        epoch = values.pop("epoch", None)
        if values:
            self._spool.metrics(values, self.step(step), self._epoch(epoch))

    @rank_zero_only
    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, metrics: Mapping[str, Any] | None = None, step: int | None = None
    ) -> None:
        """The job's summary has the hyperparameters; metrics given with them are metrics, as with TensorBoardLogger."""
        if isinstance(metrics, Mapping):
            self.log_metrics(metrics, step)

    @rank_zero_only
    def log_image(self, key: str, images: list[Any], step: int | None = None, **_: Any) -> None:
        """As the loggers of Weights & Biases, Comet and MLflow have it: each image as a PNG file."""
        for number, image in enumerate(images):
            letters = "HW" if getattr(image, "ndim", 3) == 2 else "CHW"
            tag = key if len(images) == 1 else f"{key}/{number}"
            self._experiment.add_image(tag, image, step, dataformats=letters)

    @rank_zero_only
    def log_text(self, key: str, text: Any, step: int | None = None, **_: Any) -> None:
        """A text file."""
        self._experiment.add_text(key, text, step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is buffered."""
        self._spool.flush()

    def step(self, given: Any = None) -> int:
        """The step that is meant: the one given, or the present one as Lightning counts for loggers."""
        if given is None:
            given = 0 if self.trainer is None else self.trainer.fit_loop.epoch_loop._batches_that_stepped
        return max(0, min(int(given), STEP_MAX))

    def ignored(self, call: str, reason: str) -> None:
        """Say, once for each call and reason, that something is not kept."""
        if (call, reason) not in self._ignored and len(self._ignored) < IGNORED_MAX:
            self._ignored.add((call, reason))
            self._spool.event("logging_ignored", call=call, reason=reason)

    def only_checks(self) -> bool:
        """Whether Lightning tries the validation before training: what is logged then is nowhere kept."""
        return self.trainer is not None and self.trainer.sanity_checking

    def _others(self) -> list[Logger]:
        """The loggers that the config has given besides."""
        given = [] if self.trainer is None else self.trainer.loggers
        return [logger for logger in given if logger is not self and hasattr(logger, "experiment")]

    def _epoch(self, given: float | None) -> int | None:
        if given is not None and 0 <= given <= EPOCH_MAX:  # false for NaN
            return int(given)
        return None if self.trainer is None else self.trainer.current_epoch


class Both:
    """Our experiment and that of a logger which the config gives: a call that either knows reaches it."""

    def __init__(self, ours: Experiment, theirs: Any) -> None:
        self._ours = ours
        self._theirs = theirs

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        theirs, ours = getattr(self._theirs, name, None), getattr(type(self._ours), name, None)
        if theirs is None:
            return getattr(self._ours, name)
        if ours is None or not callable(theirs):
            return theirs

        def both(*arguments: Any, **named: Any) -> Any:
            ours(self._ours, *arguments, **named)
            return theirs(*arguments, **named)

        return both


def _flat(metrics: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each value by its name; those of a mapping within, as `name/name`."""
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value
