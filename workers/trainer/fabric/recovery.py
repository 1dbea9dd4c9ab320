"""Stopping a loop on Fabric between two steps, and going on from there as if nothing had happened.

The loop says where it is by the hooks that it calls, `fabric.call("on_train_batch_end")` above all: there its `state`
holds all of the step, so there it can be saved. What the service adds are the random numbers of every rank; the data's
place is the loop's own affair. A loop may keep it as it likes: in its state alone, or by going through an epoch again
and passing over what it has seen. For that, what the generators were at the epoch's beginning is put back there.
"""

import time
from typing import Any, NoReturn

from workers.rundir import PLAIN, Order, RunDir
from workers.trainer.boundary import Weights
from workers.trainer.control import Agreement, ControlFile, Stopped
from workers.trainer.fabric.files import DISK_FULL, NOT_LOADABLE, OWN, SAVED, LoopCheckpointIO
from workers.trainer.fabric.state import LoopState
from workers.trainer.files import MODEL_CHECKPOINT, RECOVERY, REQUESTED, STOP
from workers.trainer.origin import OTHER_RANKS, OTHER_RUN
from workers.trainer.ranks import first_says, gathered
from workers.trainer.recovery import OTHER_SUMS
from workers.trainer.rng import own_generators, put_back, snapshot
from workers.trainer.spool import Spool

State = dict[str, Any]

UNHEARD_STEPS = 50
"""Optimizer steps, or logged steps, without a word at a batch's end: then the run is told to be deaf."""

NO_PATH = "its `run` takes no `ckpt_path`, so that nothing can be gone on with"
NO_STATE = "it has no `state`, a dictionary of what is to be saved"
NOT_LOADED = "its `run` did not load the `ckpt_path` that it was given, and began anew"
DEAF = (
    f"it has made {UNHEARD_STEPS} steps and not called `fabric.call('on_train_batch_end')`: until it does, it can"
    " neither be saved nor stopped between two steps; asked to stop, it is killed after the time of grace"
)
NO_NUMBERS = "the checkpoint has no random numbers"
NO_PLACE = "its state holds nothing but weights and optimizers, so not the place where it was"

VALIDATION = ("on_validation_start", "on_validation_epoch_start")


class LoopRecovery:
    """Hears each hook of a loop, on every rank, after all callbacks."""

    def __init__(self, run: RunDir, spool: Spool, files: LoopCheckpointIO, order: Order, state: LoopState) -> None:
        self.fabric: Any = None
        """Set once it is made; typed by what `Agreement` and `ranks` ask of a Trainer, which Fabric has too."""
        self._run = run
        self._spool = spool
        self._files = files
        self._state = state
        self._order = order
        self._agreement = Agreement(ControlFile(run.control), order.saves, order.recovery_interval_seconds)
        self._own: dict[str, Any] | None = None
        self._loaders: list[Any] = []
        self._unavailable: str | None = None
        self._told_failure = False
        self._unheard = 0
        self._steps_at_place = 0
        self._calls_start = False
        self._at_epoch: State | None = None
        self._before_validation: tuple[State, list[Weights]] | None = None
        self._loaded: State | None = None
        self._loaded_at = 0.0
        self._entered = False
        self._began = False
        files.on_start = self._on_loaded

    def no_path(self) -> None:
        """The loop takes no checkpoint to go on from."""
        self._give_up(NO_PATH)

    def has_loaders(self, loaders: list[Any]) -> None:
        """The loop has set up loaders; those that it makes anew for each epoch are of no interest."""
        if not self._began:
            self._loaders += loaders

    def overheard(self) -> None:
        """The loop has made a step of an optimizer, or logged: it should soon say that a batch has ended."""
        if self._state.batches == 0:
            self._unheard += 1
            if self._unheard == UNHEARD_STEPS:
                self._tell("recovery_unavailable", reason=DEAF)

    def heard(self, hook: str) -> None:
        """The loop has called a hook."""
        if self._loaded is not None:
            self._come_closer(hook)
        if hook == "on_train_epoch_start":
            if self._loaded is None:
                self._at_epoch = self._epoch_state()
        elif hook == "on_train_batch_start":
            self._calls_start = True
        elif hook == "on_train_batch_end":
            self._begin()
            self._state.batches += 1
            self._before_validation = None
            self._agreement.at_batch_end(self.fabric)
            self._between_steps()
        elif hook in VALIDATION:
            self._mark_validation()
        elif hook == "on_validation_batch_end":
            self._within_validation()

    def _begin(self) -> None:
        if self._began:
            return
        self._began = True
        self._agreement.saved()
        if self._state.values is None:
            self._give_up(NO_STATE)
        elif self._files.start_file is not None and self._loaded_at == 0.0:
            self._give_up(NOT_LOADED)

    # Coming to the place

    def _on_loaded(self, own: State | None) -> None:
        """The loop has read the file from which it is to go on."""
        self._loaded_at = time.monotonic()
        if (why := self._why_plain(own)) is not None or own is None:
            self._tell("resumed", resume="epoch", reason=why, batches_skipped=0, seconds=0.0)
            return
        self._loaded = own
        self._state.batches = own["batches"]
        self._calls_start = own["calls_start"]
        self.fabric.strategy.precision.load_state_dict(own["precision"])
        put_back(self._mine()["now"], self._generators())
        if not self._calls_start:  # no hook will tell that it has come to the place
            self._arrive()

    def _why_plain(self, own: State | None) -> str | None:
        """Why the random numbers of the run that saved the file are not this one's; None: they are."""
        if own is None:
            return NO_NUMBERS
        if self._order.start == PLAIN:
            return OTHER_RUN
        return None if len(own["ranks"]) == self.fabric.world_size else OTHER_RANKS

    def _come_closer(self, hook: str) -> None:
        """At the first hook that is called at the place, or behind it, the run has arrived."""
        assert self._loaded is not None
        if hook == "on_train_start":
            return
        if hook == "on_train_epoch_start" and not self._entered:
            at_epoch = self._mine()["at_epoch"]
            if at_epoch is not None and at_epoch["epoch"] == self._state.epoch:
                # It makes the epoch's iterator once more, and goes through what it has seen, or passes it over.
                self._entered, self._at_epoch = True, at_epoch
                put_back(at_epoch["generators"], self._generators())
                for loader, iterations in zip(self._loaders, at_epoch["iterations"], strict=False):
                    loader._num_iter_calls = iterations
                return
        if hook == "on_train_epoch_end" and self._loaded["at"] == "validation":
            return
        self._arrive()

    def _arrive(self) -> None:
        """From here on as if nothing had happened."""
        assert self._loaded is not None
        put_back(self._mine()["now"], self._generators())
        doubts = [] if self._state.holds_a_place else [NO_PLACE]
        if self.fabric.world_size > 2:
            doubts.append(OTHER_SUMS)
        told: State = {"resume": "epoch", "reason": "; ".join(doubts)} if doubts else {"resume": "exact"}
        seconds = round(time.monotonic() - self._loaded_at, 3)
        self._tell("resumed", **told, batches_skipped=self._loaded["batch"], seconds=seconds)
        self._loaded = None

    def _epoch_state(self) -> State:
        """The generators as an epoch begins, and what Fabric's loaders take for the epoch of a distributed sampler."""
        iterations = [loader._num_iter_calls for loader in self._loaders]
        return {
            "epoch": self._state.epoch,
            "generators": snapshot(self._generators()),
            "iterations": iterations,
        }

    def _mine(self) -> State:
        assert self._loaded is not None
        mine: State = self._loaded["ranks"][self.fabric.global_rank]
        return mine

    # Places

    def _between_steps(self) -> None:
        asked, steps = self._agreement, self._state.optimizer_steps
        if asked.save:
            asked.save = False
            self._save_for_user(REQUESTED)
        if self._unavailable is not None:
            if asked.stop:
                self._stop()
            return
        # Without a step since the last batch gradients are being summed, which no state holds.
        accumulates = steps == self._steps_at_place and self._state.counts_steps
        self._steps_at_place = steps
        if accumulates or not (asked.stop or asked.due):
            return
        self._save("step", snapshot(self._generators()))
        if asked.stop:
            self._stop()

    def _mark_validation(self) -> None:
        """Remember the place before a validation, to stop in the midst of a long one; several ranks end it first."""
        if self.fabric.world_size == 1 and self._state.batches > 0 and self._before_validation is None:
            self._begin()
            weights: list[Any] = self._state.modules
            self._before_validation = snapshot(self._generators()), [Weights(module) for module in weights]

    def _within_validation(self) -> None:
        if self.fabric.world_size > 1:
            return
        self._agreement.look()
        if not self._agreement.stop:
            return
        if self._state.batches == 0:  # before any training: there is nothing to save
            raise Stopped
        if self._unavailable is not None:
            self._stop()
        if self._before_validation is None:
            return
        generators, weights = self._before_validation
        if all(one.unchanged() for one in weights):
            self._save("validation", generators)
            self._stop()

    # Saving

    def _stop(self) -> NoReturn:
        if self._unavailable is not None:  # the user has at least what the loop itself would save
            self._save_for_user(STOP)
        raise Stopped

    def _save(self, at: str, generators: State) -> None:
        """Save a recovery checkpoint."""
        fabric, state = self.fabric, self._state
        ranks = gathered(fabric, {"now": generators, "at_epoch": self._at_epoch})
        own = {
            "at": at,
            "ranks": ranks,
            "batches": state.batches,
            "batch": state.batch,
            "calls_start": self._calls_start,
            "precision": fabric.strategy.precision.state_dict(),
        }
        path = self._run.path / f"recovery-step={state.global_step}.ckpt"
        try:
            self._write({**(state.values or {}), OWN: own}, path, RECOVERY)
        finally:
            if fabric.is_global_zero:
                path.unlink(missing_ok=True)  # the outbox has it
        self._agreement.saved()

    def _save_for_user(self, kind: str) -> None:
        """Save what the loop itself would."""
        if self._state.values is not None:
            self._write(self._state.values, self._run.checkpoints / f"{kind}-step={self._state.global_step}.ckpt", kind)

    def _write(self, values: State, path: Any, kind: str) -> None:
        """Write the file, on the first rank. A full disk is no reason for the run to fail: the next may fit."""
        before = snapshot(self._generators())
        self._files.kind, self._files.result = kind, (SAVED, "")
        try:
            self.fabric.save(path, values)
        finally:
            self._files.kind = MODEL_CHECKPOINT
        put_back(before, self._generators())
        result, why = self._files.result
        if result == DISK_FULL and kind == REQUESTED:
            self._tell("checkpoint_failed", reason=why)  # each time: somebody waits for it
        elif result == DISK_FULL and not self._told_failure:
            self._told_failure = True
            self._tell("recovery_failed" if kind == RECOVERY else "checkpoint_failed", reason=why)
        if kind == RECOVERY and first_says(self.fabric, result) == NOT_LOADABLE:
            self._give_up(why)

    def _generators(self) -> dict[str, Any]:
        """Those that the loop keeps itself, once it has begun."""
        if self._own is None or not self._began:
            self._own = own_generators(loop=self._state.loop)
        return self._own

    def _give_up(self, why: str) -> None:
        if self._unavailable is None:
            self._unavailable = why
            self._tell("recovery_unavailable", reason=why)

    def _tell(self, event_type: str, **data: Any) -> None:
        if self.fabric.is_global_zero:
            self._spool.event(event_type, **data)
