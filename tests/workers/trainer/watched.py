"""A Trainer in this process with the service's own reporter, and what it wrote."""

from pathlib import Path
from typing import Any

import orjson
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback

from workers.rundir import Order, RunDir
from workers.trainer.callbacks import Reporter
from workers.trainer.logger import SpoolLogger
from workers.trainer.spool import ProgressFile, Spool


class Watched:
    """A run directory and the Trainer that reports into it."""

    def __init__(
        self, folder: Path, *callbacks: Callback, stop_on_nan: bool = False, precision: str | None = None, **flags: Any
    ) -> None:
        self.run = RunDir(folder / "attempt-1")
        order = Order(job_id="job_1", attempt=1, config={}, devices=["cpu:0"], catalog_modules=[])
        self.run.create(order)
        self.spool = Spool(self.run.spool)
        self.reporter = Reporter(self.spool, ProgressFile(self.run.progress), precision, stop_on_nan=stop_on_nan)
        quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
        if precision is not None:
            flags["precision"] = precision
        self.trainer = Trainer(
            devices=1,
            logger=SpoolLogger(self.spool, self.run, order),
            callbacks=[*callbacks, self.reporter],
            log_every_n_steps=1,
            **(quiet | {"accelerator": "cpu"} | flags),
        )

    def fit(self, module: LightningModule) -> "Watched":
        """Train; what is reported is written."""
        try:
            self.trainer.fit(module)
        finally:
            self.spool.flush()
        return self

    def records(self, kind: str) -> list[dict[str, Any]]:
        """What the spool says, of one kind."""
        found = [orjson.loads(line) for line in self.run.spool.read_bytes().splitlines()]
        return [record for record in found if record["is"] == kind]
