"""Parsers of configs, made before there is a config: most of what LightningCLI does before a run is to make them.

jsonargparse reads the source of each class that a config names to find its arguments, and keeps what it found. In the
fork server that is done once, for all that the catalogue's configs name most; every trainer begins with it. Nothing is
made of a class there: its arguments are looked at, no more.
"""

import contextlib
import copy
import functools
import inspect
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

from jsonargparse import Namespace
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

from core.catalog import Kind
from workers.trainer import memos
from workers.trainer.allow import announced

CLASSES_MAX = 500
"""Most classes whose arguments are found beforehand, at some milliseconds and 0.2 MB each; others wait for a config."""
COMMON = (
    *("EarlyStopping", "LearningRateMonitor", "ModelCheckpoint"),
    *("Adam", "AdamW", "SGD", "CosineAnnealingLR", "OneCycleLR", "ReduceLROnPlateau", "StepLR"),
)
"""Of Lightning's and torch's own classes those that most configs name: to prepare all takes seconds of a start."""
PLACES = {Kind.MODEL: "model", Kind.DATA: "data", Kind.OPTIMIZER: "optimizer", Kind.LR_SCHEDULER: "lr_scheduler"}
"""Where in a config a class of each kind stands; callbacks stand in a list."""


class JobParser(LightningArgumentParser):
    """A parser that takes each value of a config once, as its parameter's type wants it.

    jsonargparse does so when it reads a config, again when it adds the defaults of the classes that the config names,
    and a third time, to validate what has become of it, which takes as long as the first two. `trusting` leaves that
    to `is_sure`, which finds what they let pass.
    """

    trusting = False

    _made: Namespace | None = None
    _given: Namespace | None = None
    _adapted: Namespace | None = None

    def get_defaults(self, skip_validation: bool = False, **named: Any) -> Namespace:
        """Found once for all configs: nothing is added to a parser, or set in it, after it has read the first."""
        if not skip_validation:
            return super().get_defaults(**named)
        if self._made is None:
            self._made = super().get_defaults(skip_validation=True, **named)
        self._given = given = self._made.clone()
        return given

    def _apply_actions(self, cfg: Any, *arguments: Any, **named: Any) -> Namespace:
        """The defaults alone, with which each config begins, are adapted to their types once."""
        if self._given is None or cfg is not self._given or arguments or named:
            adapted: Namespace = super()._apply_actions(cfg, *arguments, **named)
            return adapted
        if self._adapted is None:
            self._adapted = super()._apply_actions(cfg)
        return self._adapted.clone()

    @functools.cached_property
    def hidden(self) -> frozenset[str]:
        """Keys of a parsed config that a dump leaves out."""
        defaults = self.get_defaults(skip_validation=True)
        dumped = json.loads(self.dump(defaults, format="json", skip_none=False, skip_check=True))
        return frozenset(defaults.as_dict().keys() - dumped.keys())

    def validate(self, *arguments: Any, **named: Any) -> None:
        """As jsonargparse does, unless it is to trust."""
        if not self.trusting:
            super().validate(*arguments, **named)


KEYS = frozenset({"seed_everything", "trainer", "model", "data", "optimizer", "lr_scheduler"})
"""What a config has, but for what belongs to its subcommand."""

memos.keep()

NUMBER = re.compile(r"\s*[-+.]?\d")
"""How a text begins that YAML might read as a number."""

_ready: list[JobParser] = []
_foreseen: list[tuple[str, Namespace]] = []
"""A config that will probably come, and what it became; one at most."""


class _Made(Exception):
    """LightningCLI has made its parser, and would go on."""


class _ParserOnly(LightningCLI):
    parser: JobParser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Go no further. Raises `_Made`."""
        raise _Made


def prepare(modules: Sequence[str]) -> None:
    """Make a parser, and find the arguments of the classes that configs name; `allow_only` has been called."""
    parser = ready()
    parser.exit_on_error = False
    for config in _samples(modules):
        # It lacks all that is required; the arguments of its class are found before that is told. Whatever else a class
        # makes jsonargparse raise, the job that names it tells: no other is to suffer for it.
        with contextlib.suppress(Exception):
            parser.parse_object(config)
    parser.exit_on_error = True
    _ = parser.hidden


def ready() -> JobParser:
    """The parser that `take` will give, made where there is none."""
    if not _ready:
        _ready.append(_new())
    return _ready[-1]


def foresee(given: dict[str, Any]) -> None:
    """Parse a config with the parser that `take` will give, and keep what it becomes for who parses the same."""
    _foreseen.clear()
    parser = ready()
    parser.trusting = True
    # What is wrong with it, the run tells.
    with contextlib.suppress(Exception, SystemExit):
        parsed = parser.parse_object(copy.deepcopy(given))
        if _is_plain(parsed):
            _foreseen.append((json.dumps(given), parsed))


def forget() -> None:
    """Keep nothing of a config that was to be foreseen, nor the parser that was interrupted in it."""
    _foreseen.clear()
    _ready.clear()


def foreseen(given: Mapping[str, Any]) -> Namespace | None:
    """What was kept of this config, to the first who asks; None: nothing was, or of another."""
    if not _foreseen:
        return None
    before, parsed = _foreseen.pop()
    return parsed if before == json.dumps(given) else None  # as text: to Python 1, 1.0 and True are the same


def _is_plain(value: Any) -> bool:
    """Whether it would have become the same anywhere else: a path depends on where the process is."""
    if isinstance(value, (Namespace, Mapping)):
        value = list(vars(value).values() if isinstance(value, Namespace) else value.values())
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str, timedelta))


def is_sure(given: Mapping[str, Any], parsed: Namespace) -> bool:
    """Whether to validate a config that was parsed trusting would find nothing; False where it might.

    Parsing lets pass a key that no parser knows, which the Trainer does not take and, elsewhere, only validating tells;
    and it puts None in the place of a parameter that is missing.
    """
    return given.keys() <= KEYS and all(_is_complete(spec) for spec in _specs(parsed))


def _specs(value: Any) -> Iterator[Namespace]:
    if isinstance(value, Namespace):
        if "class_path" in value:
            yield value
        value = vars(value)
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _specs(item)


def _is_complete(spec: Namespace) -> bool:
    """Whether each None is what the class itself would take for the parameter."""
    given = spec.get("init_args")
    nones = {name for name, value in vars(given).items() if value is None} if given else None
    if not nones:
        return True
    module, _, name = spec.class_path.rpartition(".")
    try:
        parameters = inspect.signature(getattr(sys.modules[module], name)).parameters
    except (KeyError, AttributeError, ValueError, TypeError):
        return False
    return all(name in parameters and parameters[name].default is None for name in nones)


def as_plain(parser: JobParser, parsed: Namespace) -> dict[str, Any] | None:
    """A parsed config as its dump would be read again; None: it has values that only jsonargparse can write."""
    try:
        return {name: _plain(value) for name, value in parsed.as_dict().items() if name not in parser.hidden}
    except TypeError:
        return None


def _plain(value: Any) -> Any:
    """Raises `TypeError` for what is not as plain in YAML: there, a text may be a number, and a key a text."""
    if value is None or type(value) in (bool, int, float):
        return value
    if type(value) is str and not NUMBER.match(value):
        return value
    if type(value) in (list, tuple):
        return [_plain(item) for item in value]
    if type(value) is dict and all(type(name) is str for name in value):
        return {name: _plain(item) for name, item in value.items()}
    raise TypeError


def take() -> JobParser | None:
    """The parser that was made, to the first who asks: LightningCLI changes it. None: there is none."""
    return _ready.pop() if _ready else None


def _new() -> JobParser:
    made = _ParserOnly.__new__(_ParserOnly)
    with contextlib.suppress(_Made):
        made.__init__(args={}, run=False, save_config_callback=None, parser_class=JobParser)  # type: ignore[misc]
    return made.parser


def _samples(modules: Sequence[str]) -> Iterable[dict[str, Any]]:
    """For each class a config that names it."""
    found = {
        one.path: one.kind for one in announced(modules).values() if not one.builtin or one.thing.__name__ in COMMON
    }
    named = [(path, kind) for path, kind in sorted(found.items()) if kind in PLACES or kind is Kind.CALLBACK]
    for path, kind in named[:CLASSES_MAX]:
        spec = {"class_path": path}
        yield {PLACES[kind]: spec} if kind in PLACES else {"trainer": {"callbacks": [spec]}}
