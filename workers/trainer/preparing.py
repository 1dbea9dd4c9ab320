"""What comes before a run's first batch: `prepare_data`, never twice at once on a machine, and `setup` on each process.

Lightning calls `prepare_data` on each attempt, on the first rank of a machine (of all machines, where
`prepare_data_per_node` is false). That call, and no other, is made under a lock of the machine on the data: the class,
and those of its arguments that can name data. So of two jobs that want the same data one brings them, and the other
waits, then is called too and finds them there.
"""

import enum
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from lightning_fabric.utilities.distributed import _InfiniteBarrier
from pytorch_lightning import LightningDataModule, LightningModule, Trainer
from pytorch_lightning.cli import LightningCLI
from pytorch_lightning.trainer import call
from pytorch_lightning.trainer.connectors.data_connector import _DataConnector
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.model_helpers import is_overridden

from workers.rundir import Order, RunDir
from workers.trainer.bystander import Bystander
from workers.trainer.control import ControlFile, Stopped
from workers.trainer.data_errors import PreparingTakesLong, preparing
from workers.trainer.data_lock import DataLock
from workers.trainer.import_paths import import_path
from workers.trainer.spool import Spool

LOOK_SECONDS = 0.2

Owner = LightningDataModule | LightningModule


class Preparing(Bystander):
    """Makes a run's calls of `prepare_data` under the machine's lock, and reports them and each `setup`."""

    def __init__(self, order: Order, run: RunDir, spool: Spool) -> None:
        self._order = order
        self._spool = spool
        self._control = ControlFile(run.control)
        self._keys: dict[str, str] = {}

    def watch(self, cli: LightningCLI) -> None:
        """Have the Trainer of a run prepare data so."""
        connector: Any = cli.trainer._data_connector
        connector.__class__ = DataConnector  # the Trainer makes it itself
        connector.preparing = self
        for role in ("data", "model"):
            self._keys[role] = json.dumps(naming(cli.config.get(role)), sort_keys=True)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Report that a process has set up its data: Lightning calls this right behind the data module's own."""
        data = trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it in a connector
        if data is not None and is_overridden("setup", data):
            name = self._name("data", data)
            self._spool.event("data_set_up", class_path=name, stage=TrainerFn(stage).value, rank=trainer.global_rank)

    def prepare(self, trainer: Trainer, role: str, owner: Owner, prepare_data: Callable[[], Any]) -> None:
        """Call `prepare_data` of the `data` module or the `model`, once nobody else on this machine prepares the same.

        Raises what it raises, marked; `PreparingTakesLong`; and `Stopped` where the run is asked to stop meanwhile.
        """
        name = self._name(role, owner)
        with preparing(name), self._locked(trainer, name, f"{name} {self._keys[role]}") as told:
            began = time.monotonic()
            prepare_data()
            seconds = round(time.monotonic() - began, 3)
        self._spool.event("data_prepared", class_path=name, node=trainer.node_rank, seconds=seconds, **told)

    @contextmanager
    def _locked(self, trainer: Trainer, name: str, key: str) -> Iterator[dict[str, Any]]:
        """Hold the machine's lock on the data, and say how long it took to get."""
        lock = DataLock(Path(self._order.data_locks), key)
        told: dict[str, Any] = {}
        began = time.monotonic()
        try:
            self._take(lock, trainer, name)
        except OSError as error:  # no place to lock in is no reason to train on nothing
            told["not_locked"] = str(error)[:500]
            print(f"the data are prepared without a lock: {error}", file=sys.stderr)  # noqa: T201  # into the log
        try:
            yield told | {"waited_seconds": round(time.monotonic() - began, 3)}
        finally:
            lock.give_back()

    def _take(self, lock: DataLock, trainer: Trainer, name: str) -> None:
        if lock.take():
            return
        seconds = self._order.data_wait_seconds
        self._spool.event("data_awaited", class_path=name, limit_seconds=seconds)
        told = f"another job on this machine is preparing the data of {name}"
        print(f"{told}: waiting until it has, {seconds:g} s at most", file=sys.stderr)  # noqa: T201
        give_up_at = time.monotonic() + seconds
        while not lock.take():
            if trainer.world_size == 1 and self._control.read().stop:
                raise Stopped  # of several ranks the others stand at a barrier: they are killed after their grace
            if time.monotonic() > give_up_at:
                raise PreparingTakesLong(f"{told}, and has been for {seconds:g} s (LIGHTYARD_DATA_WAIT_SECONDS)")
            time.sleep(LOOK_SECONDS)

    def _name(self, role: str, owner: Owner) -> str:
        """The class as the config names it."""
        given = self._order.config.get(role)
        path = given.get("class_path") if isinstance(given, dict) else given
        return str(path or f"{type(owner).__module__}.{type(owner).__qualname__}")


class DataConnector(_DataConnector):
    """Lightning's, but for the lock around `prepare_data`."""

    preparing: Preparing

    def prepare_data(self) -> None:
        """Call `prepare_data` where Lightning does: of the data module, then of the module."""
        trainer: Any = self.trainer
        owners: list[tuple[str, Owner | None, Callable[..., Any]]] = [
            ("data", trainer.datamodule, call._call_lightning_datamodule_hook),
            ("model", trainer.lightning_module, call._call_lightning_module_hook),
        ]
        for role, owner, hook in owners:
            if owner is None or not is_overridden("prepare_data", owner):
                continue
            with _InfiniteBarrier():
                if trainer.local_rank == 0 and (owner.prepare_data_per_node or trainer.node_rank == 0):
                    self.preparing.prepare(trainer, role, owner, partial(hook, trainer, "prepare_data"))


def naming(value: Any) -> Any:
    """What of a config's value can name data: texts, and what stands for one; None for all else.

    Numbers and switches seldom say which data are brought: a sweep over batch sizes or learning rates shares them.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping) or hasattr(value, "as_dict"):
        items = value if isinstance(value, Mapping) else vars(value)
        named = {str(key): told for key, item in items.items() if (told := naming(item)) is not None}
        return named or None
    if isinstance(value, (list, tuple)):
        listed = [told for item in value if (told := naming(item)) is not None]
        return listed or None
    if callable(value):
        return import_path(value) or getattr(value, "__qualname__", type(value).__qualname__)
    return None
