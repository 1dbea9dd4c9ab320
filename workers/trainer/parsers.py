"""Parsers of configs, made before there is a config: most of what LightningCLI does before a run is to make them.

jsonargparse reads the source of each class that a config names to find its arguments, and keeps what it found. In the
fork server that is done once, for all that the catalogue's configs name most; every trainer begins with it. Nothing is
made of a class there: its arguments are looked at, no more.
"""

import contextlib
import gc
import linecache
from collections.abc import Iterable, Sequence
from typing import Any

from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

from core.catalog import Kind
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

_ready: list[LightningArgumentParser] = []


class _Made(Exception):
    """LightningCLI has made its parser, and would go on."""


class _ParserOnly(LightningCLI):
    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Go no further. Raises `_Made`."""
        raise _Made


def prepare(modules: Sequence[str]) -> None:
    """Make a parser, and find the arguments of the classes that configs name; `allow_only` has been called."""
    parser = _new()
    parser.exit_on_error = False
    for config in _samples(modules):
        # It lacks all that is required; the arguments of its class are found before that is told. Whatever else a class
        # makes jsonargparse raise, the job that names it tells: no other is to suffer for it.
        with contextlib.suppress(Exception):
            parser.parse_object(config)
    parser.exit_on_error = True
    parser.dump(parser.get_defaults(), skip_none=False, skip_check=True)
    _ready.append(parser)
    linecache.clearcache()  # the sources that were read
    gc.collect()


def take() -> LightningArgumentParser | None:
    """The parser that was made, to the first who asks: LightningCLI changes it. None: there is none."""
    return _ready.pop() if _ready else None


def _new() -> LightningArgumentParser:
    made = _ParserOnly.__new__(_ParserOnly)
    with contextlib.suppress(_Made):
        made.__init__(args={}, run=False, save_config_callback=None)  # type: ignore[misc]
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
