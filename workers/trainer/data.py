"""Where a run is in its data and random numbers, all loaders together, and how a resumed run comes there."""

from collections.abc import Sequence
from typing import Any

from lightning_fabric.utilities.data import _set_sampler_epoch, sized_len
from pytorch_lightning import Trainer
from pytorch_lightning.loops.fetchers import _PrefetchDataFetcher
from pytorch_lightning.utilities.signature_utils import is_param_in_hook_signature
from torch.utils.data import DataLoader

from workers.trainer.loaders import Place, loader_parts, why_not_exact
from workers.trainer.rng import own_generators, put_back, put_back_own, snapshot
from workers.trainer.seeding import IndexSeeds

State = dict[str, Any]

VALIDATION_DRAWS = "persistent validation workers carry on their random numbers, if they draw any"
CLOCKED = "validations come by the clock"
OTHER_ORDER = "the order of the training data was another when it was gone through again"
TAKES_ITERATOR = "training_step takes the iterator and may be ahead of the steps"
UNKNOWN_LENGTHS = "there are several training loaders, of unknown length"


class Data:
    """The loaders of a run, and all that draws random numbers."""

    def __init__(self, trainer: Trainer, seed: int, *, by_index: bool) -> None:
        self.by_epoch: str | None = None
        """Why the run can go on from an epoch's beginning only."""
        self.doubt: str | None = None
        """Why a run that goes on from any place may differ all the same."""
        self._trainer = trainer
        self._seed = seed
        self._seeds = IndexSeeds(seed) if by_index else None
        self._places: list[Place] = []
        self._validation: list[DataLoader[Any]] = []
        self._run_own: dict[str, Any] = {}
        self._at_iter: State = {}
        self._at_request: State = {}
        self._goal: State | None = None
        self._set_off = False
        self._over = False
        self._started_before: list[bool] = []
        self._validation_own: dict[str, Any] = {}
        self._validation_before: State = {}

    def attach(self) -> None:
        """Look through the run's parts for generators of their own; called once they are set up."""
        trainer: Any = self._trainer  # Lightning sets these in a connector
        self._run_own = own_generators(**user_parts(trainer))
        if trainer._val_check_time_interval is not None:
            self.doubt = CLOCKED

    def go_to(self, state: State) -> None:
        """The run is to come to the place that a `state` tells. It draws in workers as the run did that saved it."""
        self._goal = state
        self._at_request = state["at_request"]
        self._started_before = state["validation_started"]
        self._validation_before = state["now"]["own"]
        self._seeds = IndexSeeds(self._seed) if state["by_index"] else None

    def set_off(self, *, over: bool) -> None:
        """The run begins, its counters are those of the place. `over`: the epoch's last batch has been trained on."""
        self._set_off, self._over = True, over
        fit_loop = self._trainer.fit_loop
        if fit_loop._combined_loader is not None:  # asked for early, to count the steps
            self._send()
            assert fit_loop._data_fetcher is not None
            iter(fit_loop._data_fetcher)

    def before_request(self, of: str) -> None:
        """The user's method that makes the loaders is about to run: it may draw."""
        if of == "val" and self._goal is None and self._trainer.fit_loop.epoch_loop.val_loop._should_reload_val_dl:
            self._validation_before, self._started_before = {}, []  # loaders of before are given up
        if self._goal is not None and of in self._at_request:
            put_back(self._at_request[of], {})
        self._at_request[of] = snapshot({})

    def watch(self, of: str, loaders: Sequence[Any]) -> None:
        """These are the loaders; nothing has iterated over them."""
        if of == "val":
            self._watch_validation(loaders)
            return
        known = [loader for loader in loaders if isinstance(loader, DataLoader)]
        self.by_epoch = self._why_by_epoch(loaders)
        self._places = [Place(loader, f"loader {index}", self._seeds) for index, loader in enumerate(known)]
        if self._goal is None:
            self.before_iteration()
        elif self._set_off:
            self._send()
        else:
            for place in self._places:
                place.waiting = True

    def before_iteration(self) -> None:
        """Iterators for an epoch are about to be made."""
        self._at_iter = snapshot(self._own())
        if self._seeds is not None:
            self._seeds.at_epoch(self._trainer.current_epoch)

    def state(self) -> State:
        """The place where the run is, between two steps."""
        fetcher = self._trainer.fit_loop._data_fetcher
        assert fetcher is not None
        fetched = [batch for batch, _, _ in fetcher.batches] if isinstance(fetcher, _PrefetchDataFetcher) else []
        return {
            "now": snapshot(self._own()),
            "by_index": self._seeds is not None,
            "by_epoch": self.by_epoch,
            "doubt": self.doubt,
            "at_request": dict(self._at_request),
            "at_iter": self._at_iter,
            "places": [place.state(fetched, from_start=self.by_epoch is not None) for place in self._places],
            "validation_started": [loader._iterator is not None for loader in self._validation],
        }

    def arrive(self) -> tuple[list[str], float]:
        """All has been made as it was at the place. Why the run may differ from there on, and the seconds it took."""
        goal, self._goal = self._goal, None
        assert goal is not None
        put_back(goal["now"], self._own())
        doubts = [goal["by_epoch"], self.by_epoch, goal["doubt"], self.doubt]
        doubts += [OTHER_ORDER for place in self._places if place.differs]
        return list(dict.fromkeys(why for why in doubts if why)), sum(place.seconds for place in self._places)

    def unperturbed(self) -> State:
        """The generators' state, for `calm`."""
        return snapshot(self._own())

    def calm(self, state: State) -> None:
        """Undo what was drawn meanwhile."""
        put_back(state, self._own())

    def _send(self) -> None:
        combined = self._trainer.fit_loop._combined_loader
        assert self._goal is not None
        assert combined is not None
        for loader in combined.flattened:
            _set_sampler_epoch(loader, self._trainer.current_epoch)
        for place, state in zip(self._places, self._goal["places"], strict=True):
            place.go_to(state, over=self._over)
        if self._seeds is not None:
            self._seeds.at_epoch(self._trainer.current_epoch)
        self._at_iter = self._goal["at_iter"]
        put_back(self._at_iter, self._own())

    def _watch_validation(self, loaders: Sequence[Any]) -> None:
        self._validation = [loader for loader in loaders if isinstance(loader, DataLoader)]
        lasting = [loader for loader in self._validation if loader.persistent_workers]
        for loader in self._validation:
            if self._seeds is not None and loader.num_workers > 0:
                self._seeds.install(loader)
        if lasting and self._seeds is None:
            self.doubt = VALIDATION_DRAWS
        self._validation_own = own_generators(validation=[loader_parts(loader) for loader in self._validation])
        put_back_own(self._validation_before, self._validation_own)
        self._validation_before = {}
        before = self.unperturbed()
        for loader, started in zip(self._validation, self._started_before, strict=False):
            if started:  # its workers were there before, so that validating did not draw their seed any more
                iter(loader)
        self._started_before = []
        self.calm(before)

    def _why_by_epoch(self, loaders: Sequence[Any]) -> str | None:
        if is_param_in_hook_signature(self._trainer.lightning_module.training_step, "dataloader_iter", explicit=True):
            return TAKES_ITERATOR
        if len(loaders) > 1 and any(sized_len(loader) is None for loader in loaders):
            return UNKNOWN_LENGTHS
        by_index = self._seeds is not None
        return next((why for one in loaders if (why := why_not_exact(one, seeded_by_index=by_index))), None)

    def _own(self) -> dict[str, Any]:
        own = self._run_own | self._validation_own
        for place in self._places:
            own |= place.own
        return own


def user_parts(trainer: Any) -> dict[str, Any]:
    """The objects of a run that are the user's or Lightning's, not ours."""
    users = [one for one in trainer.callbacks if not type(one).__module__.startswith("workers.")]
    callbacks = {f"callback {index}": callback for index, callback in enumerate(users)}
    return {"module": trainer.lightning_module, "data": trainer.datamodule, **callbacks}
