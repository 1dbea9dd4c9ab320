"""Recovery checkpoints, from which another attempt goes on as if nothing had happened, bit for bit.

Lightning's own checkpoint lacks the random numbers, the place in the epoch and the means under way. Both are saved
between two steps, just before the next batch is fetched, when every hook of the last step has run. The loader keeps
its own order: what is remembered is the state of the generators when its iterator was made; a resumed run makes the
same iterator again, goes to the place, and puts the generators back to what they were there.
"""

import time
from collections.abc import Callable, Iterator
from pickle import UnpicklingError
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader, IterableDataset
from torchmetrics import Metric

from workers.rundir import RunDir
from workers.trainer.files import RECOVERY, OutboxCheckpointIO
from workers.trainer.rng import put_back, snapshot
from workers.trainer.spool import Spool

State = dict[str, Any]


class Recovery(Callback):
    """Saves a recovery checkpoint every `interval_seconds` of training, and resumes from one exactly.

    A run for which that is not possible saves none, and says why: its next attempt starts from the beginning.
    """

    def __init__(self, run: RunDir, spool: Spool, files: OutboxCheckpointIO, interval_seconds: float) -> None:
        self._run = run
        self._spool = spool
        self._files = files
        self._interval_seconds = interval_seconds
        self._saved_at = time.monotonic()
        self._trainer: Trainer | None = None
        self._saving: State | None = None
        self._loaded: State | None = None
        self._means: State = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Wrap the training loader that the run will ask for."""
        self._trainer = trainer
        if trainer.world_size > 1:
            self._unable("several ranks")
            return
        data = trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it in a connector
        source = data if data is not None else pl_module
        make = source.train_dataloader
        source.train_dataloader = lambda: self._wrap(make())  # type: ignore[method-assign]  # of this one object

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put back what metrics had gathered in the epoch, and what callbacks read of earlier values."""
        if self._loaded is not None:
            for name, metric in _metrics(pl_module):
                _restore(metric, self._loaded["metrics"][name])
            trainer._logger_connector._callback_metrics.update(self._loaded["callback_metrics"])
            self._loaded = None
        self._saved_at = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The first step after a resume has registered the means of the epoch: add what they had before."""
        if self._means:
            for key, result in trainer.fit_loop.epoch_loop._results.items():
                if key in self._means:
                    _add_mean(result, *self._means[key])
            self._means = {}

    def state_dict(self) -> State:
        """What a recovery checkpoint has beyond Lightning's own; nothing in the run's other checkpoints."""
        return self._saving or {}

    def load_state_dict(self, state_dict: State) -> None:
        """Remember what to put back."""
        self._loaded = state_dict
        self._means = state_dict["means"]

    def _unable(self, why: str) -> None:
        assert self._trainer is not None
        if self._trainer.is_global_zero:
            self._spool.event("recovery_unavailable", reason=why)

    def _wrap(self, loader: Any) -> Any:
        why = _why_not(loader)
        if why is not None:
            self._unable(why)
            return loader
        recovery, kind = self, type(loader)

        class Resumable(kind):  # type: ignore[misc, valid-type]  # the user's own class, still
            """The user's loader, whose iterators know where they are."""

            def __iter__(self) -> Iterator[Any]:
                return recovery._iterate(self, lambda: kind.__iter__(self))

            def state_dict(self) -> State:
                return {}  # with these two Lightning takes the loader as one that resumes

            def load_state_dict(self, state_dict: State) -> None:
                pass

        loader.__class__ = Resumable
        return loader

    def _iterate(self, loader: DataLoader[Any], make: Callable[[], Iterator[Any]]) -> Iterator[Any]:
        place = self._loaded["place"] if self._loaded is not None else None
        if place is None or place["seen"] >= len(loader):
            return _Place(self, snapshot(), make())
        started = time.monotonic()
        put_back(place["at_iter"])
        inner = make()
        if loader.num_workers == 0:  # the order alone: what fetching drew is in the generators saved at the place
            for _ in range(place["seen"]):
                next(inner._sampler_iter)  # type: ignore[attr-defined]
            inner._num_yielded = place["seen"]  # type: ignore[attr-defined]
        else:  # workers have generators of their own: they draw again what they drew
            for _ in range(place["seen"]):
                next(inner)
        self._spool.event("resumed", batches_skipped=place["seen"], seconds=round(time.monotonic() - started, 3))
        return _Place(self, place["at_iter"], inner, seen=place["seen"], go_on_from=place["now"])

    def between_steps(self, seen: int, at_iter: State) -> None:
        """Save if it is time, and if a run can go on exactly from here; else at one of the next steps."""
        trainer = self._trainer
        if trainer is None or not trainer.training or time.monotonic() - self._saved_at < self._interval_seconds:
            return
        loop, fetcher = trainer.fit_loop.epoch_loop, trainer.fit_loop._data_fetcher
        assert fetcher is not None
        mid_epoch = 0 < seen == loop.batch_progress.current.ready < trainer.num_training_batches
        # Gradients under way are in no checkpoint; a step with a validation behind it would have it run again.
        if not mid_epoch or loop._should_accumulate() or loop._should_check_val_fx(fetcher):
            return
        self._save(trainer, seen, at_iter)

    def _save(self, trainer: Trainer, seen: int, at_iter: State) -> None:
        self._saving = {
            "place": {"seen": seen, "at_iter": at_iter, "now": snapshot()},
            "means": _means(trainer),
            "metrics": {name: _gathered(metric) for name, metric in _metrics(trainer.lightning_module)},
            "callback_metrics": {name: torch.as_tensor(value) for name, value in trainer.callback_metrics.items()},
        }
        path = self._run.path / f"recovery-step={trainer.global_step}.ckpt"
        kind, self._files.kind = self._files.kind, RECOVERY
        try:
            trainer.save_checkpoint(str(path), False)
        except UnpicklingError as error:
            self._interval_seconds = float("inf")
            self._unable(f"its checkpoints cannot be loaded without running code: {error}"[:500])
        finally:
            self._files.kind, self._saving = kind, None
            path.unlink(missing_ok=True)  # the outbox has it
        self._saved_at = time.monotonic()


class _Place:
    """An iterator over a training loader that counts, and that lets a recovery be saved before it fetches."""

    def __init__(
        self,
        recovery: Recovery,
        at_iter: State,
        inner: Iterator[Any],
        *,
        seen: int = 0,
        go_on_from: State | None = None,
    ) -> None:
        self._recovery = recovery
        self._at_iter = at_iter
        self._inner = inner
        self._seen = seen
        self._go_on_from = go_on_from

    def __iter__(self) -> "_Place":
        return self

    def __next__(self) -> Any:
        if self._go_on_from is not None:
            put_back(self._go_on_from)
            self._go_on_from = None
        else:
            self._recovery.between_steps(self._seen, self._at_iter)
        batch = next(self._inner)
        self._seen += 1
        return batch


def _why_not(loader: Any) -> str | None:
    if not isinstance(loader, DataLoader):
        return f"the training data come from a {type(loader).__name__}, not from one DataLoader"
    if isinstance(loader.dataset, IterableDataset):
        return "the training data are an IterableDataset, which has no place to go back to"
    if loader.persistent_workers:
        return "persistent DataLoader workers carry their random numbers from epoch to epoch"
    return None


def _means(trainer: Trainer) -> State:
    """Values of the epoch under way, as Lightning adds them up: the sum and the number of samples in it."""
    results = trainer.fit_loop.epoch_loop._results
    return {
        key: (
            result.value.clone(),
            result.cumulated_batch_size.clone() if result.meta.is_mean_reduction else torch.tensor(0),
        )
        for key, result in results.items()
        if result.is_tensor and result.meta.on_epoch and not result.has_reset
    }


def _add_mean(result: Any, value: torch.Tensor, samples: torch.Tensor) -> None:
    value = value.to(result.value.device)
    if result.meta.is_mean_reduction:
        result.value = value + result.value
        result.cumulated_batch_size = samples.to(result.cumulated_batch_size.device) + result.cumulated_batch_size
    elif result.meta.is_sum_reduction:
        result.value = value + result.value
    else:
        result.value = result.meta.reduce_fx(value, result.value)
    result._computed = None


def _metrics(module: LightningModule) -> Iterator[tuple[str, Metric]]:
    return ((name, metric) for name, metric in module.named_modules() if isinstance(metric, Metric))


def _gathered(metric: Metric) -> State:
    """What a metric has gathered since its reset; it is in no checkpoint of Lightning's."""
    states = {name: getattr(metric, name) for name in metric._defaults}
    return {
        "updates": metric._update_count,
        "states": {
            name: [item.clone() for item in state] if isinstance(state, list) else state.clone()
            for name, state in states.items()
        },
    }


def _restore(metric: Metric, gathered: State) -> None:
    metric._update_count = gathered["updates"]
    metric._computed = None
    for name, state in gathered["states"].items():
        moved = [item.to(metric.device) for item in state] if isinstance(state, list) else state.to(metric.device)
        setattr(metric, name, moved)
