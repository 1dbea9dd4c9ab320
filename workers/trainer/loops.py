"""Lightning's own training loops, with a look at every place between two steps, and a way to begin at such a place.

Each method does what Lightning's does. What is added costs a call, draws nothing and changes nothing, until a run is
resumed: then the counters stay as they were saved, no hook runs twice, and a validation that was due is run.
"""

from typing import Any, Protocol

from pytorch_lightning import Trainer
from pytorch_lightning.loops.evaluation_loop import _EvaluationLoop
from pytorch_lightning.loops.fetchers import _DataFetcher
from pytorch_lightning.loops.fit_loop import _FitLoop
from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop


class Places(Protocol):
    """Who is told of the places."""

    entering: bool
    """A resumed run has not come to its place yet."""
    validation_due: bool
    """A resumed run begins with the validation before which it was saved."""

    def before_run(self, loop: "FitLoop") -> None:
        """The run's first word; its counters are loaded."""

    def before_request(self, of: str) -> None:
        """The user's `train_dataloader` or `val_dataloader` is about to be called."""

    def watch(self, of: str, loaders: list[Any]) -> None:
        """Loaders are there, and have not been iterated over."""

    def before_iteration(self) -> None:
        """The loaders' iterators are about to be made, for one epoch."""

    def enter(self) -> None:
        """All is made for the epoch in which a resumed run goes on."""

    def between_steps(self) -> None:
        """The next batch is about to be fetched: a place."""

    def before_validation(self) -> None:
        """A step is done, its validation has not begun: a place."""


def install(trainer: Trainer, places: Places) -> None:
    """Have a Trainer's loops tell of their places."""
    epoch_loop: Any = trainer.fit_loop.epoch_loop
    loops: list[tuple[Any, type]] = [(trainer.fit_loop, FitLoop), (epoch_loop, EpochLoop)]
    for loop, kind in [*loops, (epoch_loop.val_loop, ValidationLoop)]:
        loop.__class__ = kind  # the Trainer makes its loops itself
        loop.places = places


class FitLoop(_FitLoop):
    """The loop over epochs."""

    places: Places

    def run(self) -> None:
        """All epochs."""
        self.places.before_run(self)
        super().run()

    @property
    def done(self) -> bool:
        """Never before a resumed run has come to its place: it may be a validation behind the last step."""
        return not self.places.entering and super().done

    def setup_data(self) -> None:
        """Ask for the training loaders, where it is time."""
        if self._combined_loader is None or self._should_reload_train_dl:
            self.places.before_request("train")
        super().setup_data()

    def _load_combined_loader_states(self) -> None:
        # Lightning calls this once the loaders are as they will be used, and before it first iterates over them.
        assert self._combined_loader is not None
        self.places.watch("train", self._combined_loader.flattened)


class EpochLoop(_TrainingEpochLoop):
    """The loop over the batches of an epoch."""

    places: Places
    _validates: bool | None = None
    """Whether a validation follows the batch that has just ended, once that is found out."""

    @property
    def done(self) -> bool:
        """Not while a validation is due."""
        return not self.places.validation_due and super().done

    def reset(self) -> None:
        """Begin to count; a resumed epoch goes on counting from where it was."""
        if not self.places.entering:
            super().reset()
            return
        # Not `restarting = False`: that setter says true again where `max_steps` is set. What these flags stand for,
        # to take the rest of an epoch for less than one, is for checkpoints that lack what ours have.
        for loop in (self.trainer.fit_loop, self, self.val_loop, self.automatic_optimization, self.manual_optimization):
            loop._restarting = False

    def on_run_start(self, data_fetcher: _DataFetcher) -> None:
        """Make the iterator of the epoch."""
        self.places.before_iteration()
        super().on_run_start(data_fetcher)
        if self.places.entering:
            self.places.enter()

    def advance(self, data_fetcher: _DataFetcher) -> None:
        """One batch."""
        if self.places.validation_due:
            return
        self.places.between_steps()
        super().advance(data_fetcher)

    def on_advance_end(self, data_fetcher: _DataFetcher) -> None:
        """What follows a batch: a validation, where it is time."""
        entered = self.places.validation_due
        validates = self._should_check_val_fx(data_fetcher)
        if validates and not entered:
            self.places.before_validation()
        self._validates = validates  # Lightning asks again
        super().on_advance_end(data_fetcher)

    def _should_check_val_fx(self, data_fetcher: _DataFetcher) -> bool:
        known, self._validates = self._validates, None
        if known is not None:
            return known
        if self.places.validation_due:
            self.places.validation_due = False
            return True
        return super()._should_check_val_fx(data_fetcher)


class ValidationLoop(_EvaluationLoop):
    """The loop over the validation's batches."""

    places: Places

    def setup_data(self) -> None:
        """Ask for the validation's loaders, where it is time."""
        before = self._combined_loader
        if before is None or self._should_reload_val_dl:
            self.places.before_request("val")
        super().setup_data()
        if self._combined_loader is not None and self._combined_loader is not before:
            self.places.watch("val", self._combined_loader.flattened)


# Under these names the user's profiler reports what the loops do, as it does by hand.
FitLoop.__name__, EpochLoop.__name__, ValidationLoop.__name__ = "_FitLoop", "_TrainingEpochLoop", "_EvaluationLoop"
