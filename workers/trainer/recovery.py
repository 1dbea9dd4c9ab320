"""Recovery checkpoints, from which another attempt goes on as if nothing had happened, bit for bit.

Lightning's own checkpoint lacks the random numbers, the place in the epoch and the values under way. All is saved at a
place between two steps: just before a batch is fetched, when every hook of the last step has run, or just before a
validation. A run that cannot go on within an epoch is saved at the beginning of one, and says so.
"""

import copy
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy
from pytorch_lightning.trainer.call import _call_callbacks_state_dict
from pytorch_lightning.utilities.model_helpers import is_overridden

from workers.rundir import Order, RunDir
from workers.trainer import builtin
from workers.trainer.attributes import Attributes
from workers.trainer.boundary import Boundary, Weights
from workers.trainer.bystander import Bystander
from workers.trainer.control import Agreement, ControlFile, Stopped
from workers.trainer.data import Data, user_parts
from workers.trainer.epoch import CannotGather, gather, restore
from workers.trainer.files import RECOVERY, REQUESTED, STOP, OutboxCheckpointIO
from workers.trainer.loops import FitLoop, install
from workers.trainer.ranks import first_says, gathered, of_all_ranks
from workers.trainer.spool import Spool

State = dict[str, Any]

SAVED, DISK_FULL, NOT_LOADABLE = range(3)
OTHER_SUMS = "gradients of more than two ranks are summed in an order that may be another after a resume"


class Recovery(Bystander):
    """Saves recovery checkpoints, stops a run where it can go on from, and resumes one; see `loops.Places`."""

    def __init__(self, run: RunDir, spool: Spool, files: OutboxCheckpointIO, order: Order) -> None:
        self.entering = False
        self.validation_due = False
        self._run = run
        self._spool = spool
        self._files = files
        self._order = order
        self._agreement = Agreement(ControlFile(run.control), order.saves, order.recovery_interval_seconds)
        self._trainer: Trainer
        self._data: Data
        self._unavailable: str | None = None
        self._told_failure = False
        self._boundary: Boundary | None = None
        self._just_entered = False
        self._attributes = Attributes()
        self._masked: set[str] = set()
        self._saving: State = {}
        self._loaded: State = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Have the loops tell of their places."""
        seed = self._order.config.get("seed_everything")
        self._trainer = trainer
        self._data = Data(trainer, seed if isinstance(seed, int) else 0, by_index=self._order.seed_by_index)
        install(trainer, self)
        if type(trainer.strategy) not in (SingleDeviceStrategy, DDPStrategy):
            self._give_up(f"a {type(trainer.strategy).__name__} keeps states that are not saved")

    def state_dict(self) -> State:
        """What a recovery checkpoint has beyond Lightning's own; nothing in the run's other checkpoints."""
        return self._saving

    def load_state_dict(self, state_dict: State) -> None:
        """There is a place to go on from."""
        self.entering = True
        self._loaded = state_dict
        mine = state_dict["ranks"][self._trainer.global_rank]
        self._data.go_to(mine["data"])
        builtin.find_again(self._trainer, mine["builtin"], self._run.artifacts)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The interval to the first recovery checkpoint begins."""
        self._data.attach()
        self._attributes = Attributes(**user_parts(trainer))
        self._masked = {path for path, _, _ in builtin.pruned(pl_module)}
        self._agreement.saved()
        if self._data.by_epoch is not None and self._unavailable is None:
            self._tell("recovery_by_epoch", reason=self._data.by_epoch)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """See what is asked, and do what needs no place."""
        asked = self._agreement
        asked.at_batch_end(trainer)
        if asked.save:
            asked.save = False
            self._save_for_user(REQUESTED)
        if asked.stop and self._stops_anywhere():
            self._save_for_user(STOP)
            raise Stopped

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any) -> None:
        """A long validation stops when asked to, as well; where there are several ranks, it ends first."""
        if trainer.world_size > 1:
            return
        self._agreement.look()
        if not self._agreement.stop:
            return
        if trainer.sanity_checking:
            raise Stopped
        if self._stops_anywhere():
            self._save_for_user(STOP)
            raise Stopped
        if self._boundary is not None and self._boundary.weights.unchanged():
            self._save(self._boundary.state, self._boundary)
            raise Stopped

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What a stop within it needed is not needed any more."""
        self._boundary = None

    def before_run(self, loop: FitLoop) -> None:
        """Have a resumed run come to its place."""
        if self.entering:
            self._remove_later_files()
            progress = loop.epoch_loop.batch_progress
            self._data.set_off(over=self._loaded["at"] == "validation" and progress.is_last_batch)

    def before_request(self, of: str) -> None:
        """The loaders are about to be asked for."""
        self._data.before_request(of)

    def watch(self, of: str, loaders: list[Any]) -> None:
        """The loaders are there."""
        self._data.watch(of, loaders)

    def before_iteration(self) -> None:
        """Of the first epoch the iterators are there already, and of a resumed one."""
        if not self.entering and self._trainer.current_epoch > 0:
            self._data.before_iteration()

    def enter(self) -> None:
        """Go on from the place, from here on as if nothing had happened."""
        trainer, loaded = self._trainer, self._loaded
        mine = loaded["ranks"][trainer.global_rank]
        builtin.change_again(trainer, mine["builtin"])
        for name, buffer in mine["buffers"].items():
            trainer.lightning_module.get_buffer(name).copy_(buffer)
        restore(trainer, mine["epoch"], self._run.checkpoints)
        folders = (mine.get("folder", loaded["folder"]), str(self._run.path))
        missing = self._attributes.restore(mine["attributes"], folders)
        doubts, seconds = self._data.arrive()
        doubts += [f"{name} was made while training" for name in missing]
        doubts += [f"{name} is too large to be saved with the run" for name in mine["left_out"]]
        if trainer.world_size > 2:
            doubts.append(OTHER_SUMS)
        doubts = of_all_ranks(trainer, doubts)
        told: State = {"resume": "exact"} if not doubts else {"resume": "epoch", "reason": "; ".join(doubts)[:500]}
        skipped = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        self._tell("resumed", **told, batches_skipped=skipped, seconds=round(seconds, 3))
        self.entering, self._just_entered, self._loaded = False, True, {}
        self.validation_due = loaded["at"] == "validation"
        if self.validation_due:
            self._boundary = self._keep(self._state("validation"))

    def between_steps(self) -> None:
        """Save if it is time, and stop if asked to, where the run can go on from here."""
        trainer, asked, loop = self._trainer, self._agreement, self._trainer.fit_loop.epoch_loop
        begins = loop.batch_progress.current.ready == 0
        entered, self._just_entered = self._just_entered, False
        if begins and trainer.world_size == 1:
            asked.look()
        if not (asked.stop or (asked.due and not entered)) or self._unavailable or self._searching:
            return
        if not begins and self._data.by_epoch is not None:
            return
        # Gradients under way are saved only where somebody waits for it: they make the file a good deal larger.
        if not begins and loop._should_accumulate() and not (asked.stop and trainer.world_size == 1):
            return
        state = self._state("step")
        if state is None:
            return
        self._save(state)
        if asked.stop and not self._unavailable:
            raise Stopped

    def before_validation(self) -> None:
        """As between two steps; and remember the place, to stop in the midst of a long validation."""
        trainer, asked = self._trainer, self._agreement
        if self._unavailable or self._searching or self._data.by_epoch is not None:
            return
        wanted = asked.stop or asked.due
        if trainer.world_size > 1 and (not wanted or trainer.fit_loop.epoch_loop._should_accumulate()):
            return
        state = self._state("validation")
        if state is None:
            return
        if wanted:
            self._save(state)
        if asked.stop and not self._unavailable:
            raise Stopped
        self._boundary = self._keep(state)

    @property
    def _searching(self) -> bool:
        """A finder tries steps, with callbacks of its own: they are no part of the run."""
        return self not in self._trainer.callbacks  # type: ignore[attr-defined]  # Lightning sets it in a connector

    def _stops_anywhere(self) -> bool:
        return self._unavailable is not None or (self._data.by_epoch is not None and self._agreement.out_of_patience)

    def _state(self, at: str) -> State | None:
        """What this rank adds to a recovery checkpoint of here; None where something cannot be saved."""
        trainer = self._trainer
        loop = trainer.fit_loop.epoch_loop
        # What is optimized by hand may gather gradients by hand; a validation begins by dropping them.
        by_hand = at == "step" and not trainer.lightning_module.automatic_optimization
        try:
            epoch = gather(trainer, gradients=by_hand or loop._should_accumulate())
        except CannotGather:
            return None
        buffers = dict(trainer.lightning_module.named_buffers()) if trainer.global_rank > 0 else {}
        return {
            "at": at,
            "data": self._data.state(),
            "epoch": epoch,
            "builtin": builtin.gather(trainer, self._masked),
            "attributes": self._attributes.state(),
            "left_out": self._attributes.left_out,
            "buffers": buffers,
            "files": self._saved_files(),
            "folder": str(self._run.path),
        }

    def _keep(self, state: State | None) -> Boundary | None:
        """The place before a validation, unless somebody's hooks save what a validation may change."""
        trainer: Any = self._trainer
        module, data = trainer.lightning_module, trainer.datamodule
        hooked = is_overridden("on_save_checkpoint", module) or (data is not None and is_overridden("state_dict", data))
        if state is None or trainer.world_size > 1 or hooked:
            return None
        try:
            callbacks = copy.deepcopy(_call_callbacks_state_dict(trainer))
        except (RuntimeError, TypeError):  # a callback keeps what cannot be copied
            return None
        return Boundary(state, trainer.fit_loop.state_dict(), callbacks, Weights(module))

    def _save(self, state: State, boundary: Boundary | None = None) -> None:
        trainer = self._trainer
        path = self._run.path / f"recovery-step={trainer.global_step}.ckpt"
        folder = str(self._run.path)
        ranks = gathered(trainer, state)
        self._saving = {"at": state["at"], "files": state["files"], "folder": folder, "ranks": ranks}
        before = self._data.unperturbed()
        try:
            checkpoint = trainer._checkpoint_connector.dump_checkpoint(False)
            builtin.without_masks(checkpoint, trainer.lightning_module, self._masked)
            if boundary is not None:
                checkpoint["loops"]["fit_loop"] = boundary.loops
                checkpoint["callbacks"] = boundary.callbacks | {self.state_key: self._saving}
            self._write(checkpoint, path, RECOVERY)
        finally:
            self._saving = {}
            if trainer.is_global_zero:
                path.unlink(missing_ok=True)  # the outbox has it
        self._data.calm(before)
        self._agreement.saved()

    def _save_for_user(self, kind: str) -> None:
        """An ordinary checkpoint of Lightning's."""
        trainer = self._trainer
        path = self._run.checkpoints / f"{kind}-step={trainer.global_step}.ckpt"
        before = self._data.unperturbed()
        if self._unavailable is None or trainer.world_size == 1:
            self._write(trainer._checkpoint_connector.dump_checkpoint(False), path, kind)
        else:
            self._files.kind, kept = kind, self._files.kind
            trainer.save_checkpoint(str(path), False)  # a strategy may save in a way of its own
            self._files.kind = kept
        self._data.calm(before)

    def _write(self, checkpoint: State, path: Path, kind: str) -> None:
        """Write the file, on the first rank. A full disk is no reason for the run to fail: the next may fit."""
        result, why = SAVED, None
        if self._trainer.is_global_zero:
            try:
                why = self._files.save_own(checkpoint, path, kind)
                result = SAVED if why is None else DISK_FULL
            except UnpicklingError as error:
                result, why = NOT_LOADABLE, f"its checkpoints cannot be loaded without running code: {error}"[:500]
        if result == DISK_FULL and kind == REQUESTED:
            self._tell("checkpoint_failed", reason=why)  # each time: somebody waits for it
        elif result == DISK_FULL and not self._told_failure:
            self._told_failure = True
            self._tell("recovery_failed" if kind == RECOVERY else "checkpoint_failed", reason=why)
        if kind == RECOVERY and first_says(self._trainer, result) == NOT_LOADABLE:
            self._give_up(why or "")

    def _give_up(self, why: str) -> None:
        self._unavailable = why
        self._tell("recovery_unavailable", reason=why)

    def _tell(self, event_type: str, **data: Any) -> None:
        if self._trainer.is_global_zero:
            self._spool.event(event_type, **data)

    def _saved_files(self) -> list[str]:
        folder = self._run.checkpoints
        return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())

    def _remove_later_files(self) -> None:
        """A file that ModelCheckpoint saved after the place is saved again, and under the same name."""
        if self._trainer.is_global_zero:
            for name in set(self._saved_files()) - set(self._loaded["files"]):
                (self._run.checkpoints / name).unlink()
