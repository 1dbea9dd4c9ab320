import json
from pathlib import Path
from typing import Any, NoReturn

import pytest
from pytorch_lightning import Trainer
from pytorch_lightning.demos.boring_classes import BoringModel

from workers.trainer import trials
from workers.trainer.spool import Spool


class Unvalidated(BoringModel):
    """Trains well and cannot be validated."""

    def validation_step(self, batch: Any, batch_idx: int) -> NoReturn:
        raise KeyError("no such thing")


def test_training_that_was_come_through_is_told_so_where_the_validation_behind_it_fails(tmp_path: Path) -> None:
    (tmp_path / "spool").touch()
    spool = Spool(tmp_path / "spool")
    trainer = Trainer(fast_dev_run=True, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False)
    trials.watch(trainer, spool, dry_run=True)
    with pytest.raises(KeyError), trials.told(trainer):
        trainer.fit(Unvalidated())
    told = [json.loads(line) for line in (tmp_path / "spool").read_text().splitlines()]
    (phases,) = [record["data"]["phases"] for record in told if record.get("type") == "tried"]
    assert [(one["phase"], one["batches"], one["seconds"] is not None) for one in phases] == [
        ("training", 1, True),
        ("validating", 0, False),
    ]
