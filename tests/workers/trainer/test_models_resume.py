"""The catalogue's models that keep or draw more than a plain one go on from the midst of an epoch, bit for bit."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.workers.trainer.runs import NEVER, Case, assert_same_end, events, metrics, recoveries, train
from workers.rundir import Outcome

DIGITS = {"class_path": "models.data.Digits", "init_args": {"batch_size": 256}}


@dataclass(frozen=True)
class Ready(Case):
    """A run of a model of the catalogue on its data: `model` is a class path."""

    data: dict[str, Any] = field(default_factory=dict)

    def config(self, **_: Any) -> dict[str, Any]:
        """The job's config."""
        plain = super().config()
        return plain | {"model": {"class_path": self.model, "init_args": self.init_args}, "data": self.data}


CASES = {
    "two optimizers, two schedulers, noise": Ready(
        "models.gan.ImageGAN",
        {"width": 4, "sample_every_n_epochs": 1, "lr_decay_epochs": 2},
        {"max_epochs": 2},
        data=DIGITS,
    ),
    "random windows, dropout, samples, a schedule by the step": Ready(
        "models.text.CharacterGPT",
        {"width": 16, "num_heads": 2, "num_layers": 1, "dropout": 0.2, "warmup_steps": 3, "sample_length": 5},
        {"max_epochs": 2, "limit_train_batches": 6, "limit_val_batches": 2},
        data={"class_path": "models.data.Characters", "init_args": {"batch_size": 4}},
    ),
    "codes": Ready("models.autoencoder.Autoencoder", {"width": 4}, {"max_epochs": 2}, data=DIGITS),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_model_of_the_catalogue_goes_on_as_if_nothing_had_happened(
    warm_fork_server: None, case: Ready, tmp_path: Path
) -> None:
    whole = train(tmp_path, case)
    assert whole.read_outcome() == Outcome("succeeded"), whole.log_tail(3000)
    saved = recoveries(whole)
    resumed = train(tmp_path, case, resume=(whole, saved[len(saved) // 2 - 1]), interval_seconds=NEVER)
    assert resumed.read_outcome() == Outcome("succeeded"), resumed.log_tail(3000)
    [told] = events(resumed, "resumed")
    assert told["resume"] == "exact"
    assert told["batches_skipped"] > 0
    assert_same_end(whole, resumed)
    assert metrics(whole, resumed) == metrics(whole)
