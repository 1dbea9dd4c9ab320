"""A run goes on exactly from every kind of place, with every kind of data; where it cannot it says so."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.workers.trainer.runs import NEVER, Case, assert_same_end, ended, events, recoveries, rest, start, train
from workers.rundir import Outcome, RunDir

EARLY, LATER, LAST = 0.2, 0.67, 1.0
"""Places, as parts of all that a run has. The last is before its last validation, mostly."""


def callback(name: str, **init_args: Any) -> dict[str, Any]:
    return {"class_path": name, "init_args": init_args}


STOPPING = callback("EarlyStopping", monitor="val_loss", patience=2)
BEST = callback("ModelCheckpoint", monitor="val_loss", save_top_k=2, filename="best-{epoch}-{step}")

EXACT = {
    "validation inside the epoch, early stopping, the best two, a plateau": Case(
        "Dropping", {"scheduler": "plateau"}, {"val_check_interval": 3}, [STOPPING, BEST]
    ),
    "epochs of one batch": Case("Dropping", {"items": 4}, {"max_epochs": 8}, [STOPPING]),
    "a last step with a validation behind it": Case(
        "Dropping", {}, {"max_steps": 18, "max_epochs": -1, "val_check_interval": 3, "accumulate_grad_batches": 2}
    ),
    "several loaders, of which one is gone through again": Case(
        "Dropping", {"data": "several", "num_workers": 2, "scheduler": "cycle"}
    ),
    "weights averaged, a generator of the loader's own, validations that begin late": Case(
        "Dropping",
        {"data": "own generator"},
        {"check_val_every_n_epoch": 2, "max_epochs": 2},
        [callback("EMAWeightAveraging")],
    ),
    "gradients gathered by hand": Case("Adversaries", {}, {"val_check_interval": 4}),
    "loaders made anew": Case(
        "Dropping", {}, {"reload_dataloaders_every_n_epochs": 2, "check_val_every_n_epoch": 2, "max_epochs": 4}
    ),
    "workers seeded by index": Case("Dropping", {"num_workers": 2}, seed_by_index=True),
    "lasting workers seeded by index": Case("Dropping", {"num_workers": 2, "data": "persistent"}, seed_by_index=True),
    "a stream that knows where it is": Case("Dropping", {"data": "tape"}),
    "batches of which nobody knows how many": Case("Dropping", {"data": "unsized"}),
    "a loader with an iterator of its own": Case("Dropping", {"data": "chatty"}),
}
BY_EPOCH = {
    "stream": "IterableDataset",
    "endless": "Endless",
    "persistent": "persistent DataLoader workers",
}


@pytest.mark.parametrize("name", EXACT)
def test_a_run_goes_on_exactly_from_any_place(name: str, undisturbed: Callable[[Case], RunDir], tmp_path: Path) -> None:
    whole = undisturbed(EXACT[name])
    known = recoveries(whole)
    places = [
        known[round(part * (len(known) - 1))]
        for part in (EARLY if "check_val_every_n_epoch" in EXACT[name].flags else LATER, LAST)
    ]
    starts = [
        start(tmp_path / place["file"], EXACT[name], resume=(whole, place), interval_seconds=NEVER) for place in places
    ]
    for place, resumed in zip(places, map(ended, starts), strict=True):
        assert resumed.read_outcome() == whole.read_outcome(), resumed.log_tail(3000)
        assert [told["resume"] for told in events(resumed, "resumed")] == ["exact"]
        assert rest(resumed) == rest(whole, place), f"from {place}"
        if any(isinstance(seen, tuple) and seen[0] == "last.ckpt" for seen in rest(whole, place)):
            assert_same_end(whole, resumed)


@pytest.mark.parametrize("data", BY_EPOCH)
def test_what_cannot_go_on_within_an_epoch_goes_on_from_the_beginning_of_one_and_says_why(
    data: str, undisturbed: Callable[[Case], RunDir], tmp_path: Path
) -> None:
    workers = 2 if data == "persistent" else 0
    case = Case("Dropping", {"data": data, "num_workers": workers}, {"limit_train_batches": 10})
    whole = undisturbed(case)
    assert [place["step"] for place in recoveries(whole)] == [0, 10]
    (announced,) = events(whole, "recovery_by_epoch")
    assert BY_EPOCH[data] in announced["reason"]
    place = recoveries(whole)[1]
    resumed = train(tmp_path, case, resume=(whole, place))
    assert resumed.read_outcome() == Outcome("succeeded"), resumed.log_tail(3000)
    (told,) = events(resumed, "resumed")
    assert told["resume"] == "epoch"
    assert BY_EPOCH[data] in told["reason"]
    assert told["batches_skipped"] == 0
    assert [seen[:2] for seen in rest(resumed)] == [seen[:2] for seen in rest(whole, place)]


def test_an_order_that_does_not_repeat_is_found_out(undisturbed: Callable[[Case], RunDir], tmp_path: Path) -> None:
    case = Case("Dropping", {"data": "moody"})
    whole = undisturbed(case)
    place = next(place for place in recoveries(whole) if place["step"] == 14)
    resumed = train(tmp_path, case, resume=(whole, place))
    assert resumed.read_outcome() == Outcome("succeeded"), resumed.log_tail(3000)
    (told,) = events(resumed, "resumed")
    assert told["resume"] == "epoch"
    assert "order" in told["reason"]
