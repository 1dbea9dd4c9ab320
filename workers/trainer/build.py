"""From a config to a Trainer, a module and its data, by LightningCLI itself, so that a job is what runs by hand."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import set_dumper
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_utilities.core.enums import StrEnum
from pytorch_lightning import LightningDataModule, LightningModule, Trainer
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, ProgressBar, SpikeDetection
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

from workers.rundir import Order, RunDir
from workers.trainer import each_step, parsers, profiles, trials
from workers.trainer.allow import announced
from workers.trainer.builtin import Quiet
from workers.trainer.callbacks import Reporter
from workers.trainer.evaluation import Evaluation
from workers.trainer.files import OutboxCheckpointIO
from workers.trainer.logger import SpoolLogger
from workers.trainer.origin import Origin
from workers.trainer.plain_loaders import spelled_out
from workers.trainer.predictions import kept_predictions
from workers.trainer.preparing import Preparing
from workers.trainer.recovery import Recovery
from workers.trainer.spool import ProgressFile, Spool

SUBCOMMAND_KEYS = ("ckpt_path", "weights_only", "verbose", "return_predictions")
"""Keys of a config that LightningCLI gives to the subcommand, not to the parser."""
SKIPPED = "skip_batches.json"

# libyaml's, where PyYAML has been built with it: the same text, many times faster.
Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
Dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
# The default of Timer's `interval` is an enum, which jsonargparse would fail to write into the config.
Dumper.add_multi_representer(StrEnum, lambda dumper, value: dumper.represent_str(value.value))


def as_yaml(value: Any) -> str:
    """A config as jsonargparse itself writes it."""
    text: str = yaml.dump(value, Dumper=Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False)
    return text


set_dumper("yaml", as_yaml)
each_step.keep()


@dataclass(frozen=True, slots=True)
class Run:
    """What a config becomes."""

    trainer: Trainer
    module: LightningModule
    data: LightningDataModule | None
    cli: "JobCLI"
    origin: Origin

    def resolved_config(self) -> str:
        """The config as YAML with every default filled in, as LightningCLI itself would save it."""
        return as_yaml(self.cli.resolved)


class JobCLI(LightningCLI):
    """LightningCLI with what a service must decide itself: where files go, what is logged, which devices."""

    parser: parsers.JobParser

    def __init__(
        self, config: dict[str, Any], overrides: dict[str, Any], own_callbacks: list[Any], folder: Path
    ) -> None:
        self._overrides = overrides
        self._own_callbacks = own_callbacks
        self._folder = folder
        self._artifacts = folder.with_name("artifacts")
        self.resolved: dict[str, Any] = {}
        try:
            super().__init__(args=config, run=False, save_config_callback=None, parser_class=parsers.JobParser)
        except Exception:
            self._validate(config)
            raise

    def _validate(self, config: Any) -> None:
        """Have jsonargparse say what is wrong with a config, where it is the config that is wrong."""
        self.parser.trusting = False
        self.parser.parse_object(copy.deepcopy(config))

    def setup_parser(self, *arguments: Any) -> None:
        """Begin with the parser that the fork server has made, or make one."""
        ready = parsers.take()
        if ready is None:
            super().setup_parser(*arguments)
        else:
            self.parser = ready

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, and validate what of it may be wrong."""
        self.parser.trusting = True
        foreseen = parsers.foreseen(args)
        if foreseen is not None:
            self.config = foreseen
        else:
            super().parse_arguments(parser, args)
        if not parsers.is_sure(args, self.config):
            self._validate(args)

    def before_instantiate_classes(self) -> None:
        """Write the config down, with every default filled in: modules remember it, and the job keeps it.

        Lightning itself would do so twice, each time checking it once more, and read it with a parser in pure Python.
        """
        plain = parsers.as_plain(self.parser, self.config)
        if plain is None:
            text = self.parser.dump(self.config, skip_none=False, skip_check=True)
            plain = yaml.load(text, Loader)  # noqa: S506  # a safe one, see above
        self.resolved = plain
        self.config_dump = copy.deepcopy(plain)  # modules remember parts of it, and may change them

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The config's Trainer, with the service's own callbacks behind the user's."""
        # Bars are for a terminal: the API tells the progress. Lightning refuses one where it is told to have none.
        given = self._get(self.config_init, "trainer.callbacks")
        if isinstance(given, list):
            given[:] = [callback for callback in given if not isinstance(callback, ProgressBar)]
        elif isinstance(given, ProgressBar):
            self._overrides["callbacks"] = []
        loggers = self._get(self.config_init, "trainer.logger")
        if "logger" in self._overrides and loggers not in (None, True, False):
            chosen = loggers if isinstance(loggers, list) else [loggers]
            self._overrides["logger"] = [self._overrides["logger"], *chosen]
        trainer = super().instantiate_trainer(**kwargs, **self._overrides)
        _move_inside(trainer.callbacks, self._folder)  # type: ignore[attr-defined]  # Lightning sets it in a connector
        profiles.place(trainer, self._artifacts)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, SpikeDetection):
                callback.exclude_batches_path = str(self._artifacts / (callback.exclude_batches_path or SKIPPED))
                # Lightning loads its state into an attribute that it never makes.
                callback.running = callback.running_mean  # type: ignore[attr-defined]
        trainer.callbacks.extend(self._own_callbacks)  # type: ignore[attr-defined]
        return trainer


def foresee(config: dict[str, Any], modules: Sequence[str]) -> None:
    """Read the config that an order will probably have, before there is one."""
    parsers.foresee(_given(config, modules))


def _given(config: dict[str, Any], modules: Sequence[str]) -> dict[str, Any]:
    """What of an order's config LightningCLI's parser is given."""
    own = {key: value for key, value in config.items() if key not in SUBCOMMAND_KEYS}
    return spelled_out(own, announced(modules))


def build(order: Order, run: RunDir, spool: Spool) -> Run:
    """Seed, parse and instantiate. Raises what LightningCLI, Lightning or the classes raise."""
    config = _given(order.config, order.catalog_modules)
    origin = Origin(run, order, spool)
    files = OutboxCheckpointIO(run, spool, origin)
    flags = dict(config.get("trainer") or {})
    asked = None if flags.get("precision") is None else str(flags["precision"])
    reporter = Reporter(spool, ProgressFile(run.progress), asked, stop_on_nan=order.stop_on_nan)
    loggers = flags.get("logger")
    for logger in loggers if isinstance(loggers, list) else [loggers]:
        if isinstance(logger, dict):  # what the user's own loggers write becomes artifacts
            given = dict(logger.get("init_args") or {})
            if order.attempt > 1 and given.get("version") is None:
                given["version"] = order.attempt - 1  # by hand, too, it begins a folder beside the one that is there
            logger["init_args"] = given | {"save_dir": str(run.artifacts)}
    overrides: dict[str, Any] = {
        "default_root_dir": str(run.path),
        "enable_progress_bar": False,
        # Said, not left to be found out: looking for MPI or SLURM would start one, or take its ranks for ours.
        "plugins": [files, LightningEnvironment()],
        "accelerator": order.devices[0].partition(":")[0],
        "devices": len(order.devices),
        "num_nodes": order.nodes,
    }
    if order.dry_run:
        order = replace(order, recovery_interval_seconds=float("inf"))
        overrides |= {"fast_dev_run": True, "barebones": False}
    logger = SpoolLogger(spool, run, order)
    if not flags.get("barebones"):
        overrides["logger"] = logger
    own: list[Callback] = [Recovery(run, spool, files, order), reporter]
    if order.subcommand != "fit":
        own = [reporter, *kept_predictions(run, order, spool), Evaluation(run, spool)]
    preparing = Preparing(order, run, spool)
    cli = JobCLI(config, overrides, [*own, preparing], run.checkpoints)
    preparing.watch(cli)
    cli.trainer.callbacks.insert(0, Quiet())  # type: ignore[attr-defined]
    cli.trainer.callbacks.insert(0, origin)  # type: ignore[attr-defined]  # what it loads is there for all others
    files.trainer = logger.trainer = cli.trainer
    trials.watch(cli.trainer, spool, dry_run=order.dry_run)
    return Run(trainer=cli.trainer, module=cli.model, data=cli.datamodule, cli=cli, origin=origin)


def _move_inside(callbacks: Sequence[Callback], folder: Path) -> None:
    """Have every ModelCheckpoint write into the run directory; those with folders of their own keep them apart."""
    taken: dict[str, str] = {}
    for callback in callbacks:
        if isinstance(callback, ModelCheckpoint):
            chosen = str(callback.dirpath or "")
            if chosen and chosen not in taken:
                name = Path(chosen).name or "checkpoints"
                taken[chosen] = f"{name}-{len(taken) + 1}" if name in taken.values() else name
            callback.dirpath = str(folder / taken[chosen]) if chosen else str(folder)
