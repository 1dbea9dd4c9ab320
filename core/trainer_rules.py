"""What a schema cannot say of the Trainer's flags and callbacks: what the service refuses, and what excludes what.

The exclusions are those that Lightning 2.6 raises on (trainer.py, its connectors, the callbacks), and a few that
cannot be meant.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from core.catalog import CALLBACK, Catalog, Entry, Kind
from core.class_values import ClassValue, read_class_value
from core.distribution_rules import distribution_faults
from core.errors import Fault
from core.precision import precision_of, why_lacking
from core.yaml_reader import yaml_scalar

CHECKPOINT = "pytorch_lightning.callbacks.ModelCheckpoint"
LOGGERS = frozenset({"pytorch_lightning.loggers.CSVLogger", "pytorch_lightning.loggers.TensorBoardLogger"})
FILENAME_CHARACTERS_MAX = 200
"""A file's name has 255 bytes at most, of which Lightning and the store add some; metrics are filled in besides."""

_LIGHTNINGS_CHECKPOINTS = "pytorch_lightning.callbacks.Checkpoint"
_LOGGER = "pytorch_lightning.loggers.Logger"
_SPIKES = "pytorch_lightning.callbacks.SpikeDetection"
_PROFILER = "pytorch_lightning.profilers.Profiler"
# Arguments that become parts of the paths of files, below a folder which the service sets.
_PATHS = {_LIGHTNINGS_CHECKPOINTS: ("filename",), _LOGGER: ("name", "version", "sub_dir"), _PROFILER: ("filename",)}
_PATHS |= {_SPIKES: ("exclude_batches_path",)}
_FILLING_SLASH = re.compile(r"\{[^{}:]*:[^{}]*/")  # "{epoch:/>9}" writes slashes before the number

# Callbacks that do not fit a job, and what does.
REFUSED_CALLBACKS = {
    "pytorch_lightning.callbacks.OnExceptionCheckpoint": (
        "it has the Trainer look for a checkpoint of its own at each start, and removes what it saved;"
        " give `save_on_exception: true` to ModelCheckpoint"
    ),
}

# Flags that Lightning has dropped, and what stands for them in 2.6.
REMOVED = {
    "amp_backend": "remove it: native mixed precision is the only one; choose it with `precision`",
    "amp_level": "remove it; choose mixed precision with `precision`",
    "auto_lr_find": "use the callback LearningRateFinder",
    "auto_scale_batch_size": "use the callback BatchSizeFinder",
    "auto_select_gpus": "use `accelerator: gpu` and `devices`",
    "checkpoint_callback": "use `enable_checkpointing`",
    "distributed_backend": "use `strategy`",
    "flush_logs_every_n_steps": "give it to the logger (CSVLogger has it)",
    "gpus": "use `accelerator: gpu` and `devices`",
    "ipus": "IPUs are no longer supported",
    "log_gpu_memory": "use the callback DeviceStatsMonitor",
    "move_metrics_to_cpu": "remove it",
    "multiple_trainloader_mode": "return a CombinedLoader from train_dataloader",
    "num_processes": "use `accelerator: cpu` and `devices`",
    "prepare_data_per_node": "set the attribute of the LightningDataModule",
    "process_position": "give it to the callback TQDMProgressBar",
    "progress_bar_refresh_rate": "give refresh_rate to the callback TQDMProgressBar",
    "reload_dataloaders_every_epoch": "use `reload_dataloaders_every_n_epochs: 1`",
    "replace_sampler_ddp": "use `use_distributed_sampler`",
    "resume_from_checkpoint": "use `ckpt_path` beside `trainer`",
    "stochastic_weight_avg": "use the callback StochasticWeightAveraging",
    "terminate_on_nan": "use `detect_anomaly`, or `check_finite` of the callback EarlyStopping",
    "tpu_cores": "use `accelerator: tpu` and `devices`",
    "track_grad_norm": "log the norm in `on_before_optimizer_step`",
    "truncated_bptt_steps": "cut the sequences in the training_step, with manual optimization",
    "weights_save_path": "give dirpath to the callback ModelCheckpoint",
    "weights_summary": "use `enable_model_summary`, or the callback ModelSummary",
}

# What barebones mode forbids, and when: trainer.py raises on each.
_NOT_BAREBONES: dict[str, Callable[[Any], bool]] = {
    "enable_checkpointing": bool,
    "logger": lambda value: value is not None and value is not False,
    "enable_progress_bar": bool,
    "log_every_n_steps": lambda value: value is not None and value != 0,
    "enable_model_summary": bool,
    "num_sanity_val_steps": lambda value: value is not None and value != 0,
    "fast_dev_run": lambda value: value is not False and value != 0,
    "detect_anomaly": bool,
    "profiler": lambda value: value is not None,
}


def refusals(flags: Mapping[str, Any], catalog: Catalog, pointer: str) -> Iterator[Fault]:
    """What this service does not run, with the reason, whatever the schemas say of it."""
    for name in flags:
        if name in REMOVED and name not in catalog.trainer.get("properties", {}):
            yield Fault(f"{pointer}/{name}", "refused", f"Lightning 2.6 has no `{name}` any more: {REMOVED[name]}.")
    if flags.get("plugins"):
        yield Fault(f"{pointer}/plugins", "refused", "`plugins` are refused: the service sets how files are written.")
    if flags.get("default_root_dir") is not None:
        message = "`default_root_dir` is refused: the service sets it to the job's own folder. Remove it."
        yield Fault(f"{pointer}/default_root_dir", "refused", message)
    if flags.get("model_registry") is not None:
        message = "`model_registry` is refused: checkpoints are kept by this service. Remove it."
        yield Fault(f"{pointer}/model_registry", "refused", message)
    for spec, place in _classes(flags.get("callbacks"), f"{pointer}/callbacks"):
        entry = catalog.resolve(str(spec.name), [CALLBACK])
        if isinstance(entry, Entry) and entry.class_path in REFUSED_CALLBACKS:
            message = f"{entry.name} is refused: {REFUSED_CALLBACKS[entry.class_path]}."
            yield Fault(place + "".join(f"/{key}" for key in spec.name_path), "refused", message)
    yield from _refused_loggers(flags.get("logger"), catalog, f"{pointer}/logger")
    for name, base in (("callbacks", CALLBACK), ("logger", _LOGGER), ("profiler", _PROFILER)):
        for spec, place in _classes(flags.get(name), f"{pointer}/{name}"):
            if not spec.args or not isinstance(spec.args, dict):
                continue
            entry = catalog.resolve(str(spec.name), [base])
            if isinstance(entry, Entry):
                yield from _refused_paths(entry, spec.args, place + "".join(f"/{key}" for key in spec.args_path))
    yield from distribution_faults(flags, _scalar(flags.get("num_nodes")), pointer)


def exclusions(flags: Mapping[str, Any], catalog: Catalog, pointer: str) -> Iterator[Fault]:
    """Flags and callbacks that exclude each other: the fault stands at the second and names the first."""
    flags = {name: _scalar(value) for name, value in flags.items()}
    callbacks = list(_callbacks(flags.get("callbacks"), catalog, f"{pointer}/callbacks"))
    if flags.get("barebones") is True:
        for name, is_used in _NOT_BAREBONES.items():
            if name in flags and is_used(flags[name]):
                yield _excludes(f"{pointer}/{name}", f"{pointer}/barebones", "barebones mode switches it off")
    for least, most in (("min_epochs", "max_epochs"), ("min_steps", "max_steps")):
        low, high = _number(flags.get(least)), _number(flags.get(most))
        if low is not None and high is not None and 0 <= high < low:
            yield _excludes(f"{pointer}/{least}", f"{pointer}/{most}", f"{low} is more than {high}")
    if flags.get("check_val_every_n_epoch", 1) is None and isinstance(flags.get("val_check_interval"), float):
        yield _excludes(
            f"{pointer}/val_check_interval",
            f"{pointer}/check_val_every_n_epoch",
            "with null there, it must be a whole number of batches or a duration",
        )
    yield from _device_rules(flags, pointer)
    yield from _callback_rules(flags, callbacks, pointer)


def checkpoint_rules(arguments: Mapping[str, Any], pointer: str) -> Iterator[Fault]:
    """What ModelCheckpoint raises on when it is made (model_checkpoint.py, `__validate_init_configuration`)."""
    triggers = [
        name
        for name in ("every_n_train_steps", "every_n_epochs", "train_time_interval")
        if arguments.get(name) is not None and _scalar(arguments[name]) != 0
    ]
    for name in triggers[1:]:
        yield _excludes(f"{pointer}/{name}", f"{pointer}/{triggers[0]}", "a ModelCheckpoint saves by one of them")
    kept = _scalar(arguments.get("save_top_k"))
    if isinstance(kept, int) and kept > 1 and arguments.get("monitor") is None:
        message = f"To keep the best {kept} checkpoints, `monitor` must name the metric that ranks them."
        yield Fault(f"{pointer}/save_top_k", "requires", message)


def _excludes(pointer: str, other: str, why: str) -> Fault:
    return Fault(pointer, "excludes", f"This and {other} exclude each other: {why}.")


def _scalar(value: Any) -> Any:
    return yaml_scalar(value) if isinstance(value, str) else value


def _number(value: Any) -> int | float | None:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _refused_loggers(value: Any, catalog: Catalog, pointer: str) -> Iterator[Fault]:
    for spec, place in _classes(value, pointer):
        if spec.is_bare and isinstance(_scalar(spec.name), bool):
            continue
        entry = catalog.get(str(spec.name)) or next(iter(catalog.named(str(spec.name))), None)
        if entry is None or (entry.class_path not in LOGGERS and entry.kind is Kind.LOGGER):
            message = (
                "Only CSVLogger and, where a worker has it, TensorBoardLogger can be given: a job's metrics are kept"
                " by this service. Remove `logger`, or set it to true."
            )
            yield Fault(place + "".join(f"/{key}" for key in spec.name_path), "refused", message)


def _refused_paths(entry: Entry, arguments: Mapping[str, Any], pointer: str) -> Iterator[Fault]:
    """Arguments by which files would be written outside of the job's own folder."""
    names = [name for base, paths in _PATHS.items() if entry.is_a([base]) for name in paths]
    for name, value in arguments.items():
        if not isinstance(value, str):
            continue
        if name in names:
            if problem := _path_problem(value, expands=entry.is_a(["pytorch_lightning.loggers.TensorBoardLogger"])):
                message = f"`{name}` {problem}: files are written below the job's own folder."
                yield Fault(f"{pointer}/{name}", "refused", message)
            elif name == "filename" and len(value) > FILENAME_CHARACTERS_MAX:
                message = f"`filename` has {len(value)} characters; a file's name can have {FILENAME_CHARACTERS_MAX}."
                yield Fault(f"{pointer}/{name}", "refused", message)
        elif name == "dirpath" and "://" in value and entry.is_a([_LIGHTNINGS_CHECKPOINTS]):
            message = "Checkpoints go to this service's store: leave `dirpath` out, or give a plain folder's name."
            yield Fault(f"{pointer}/{name}", "refused", message)


def _path_problem(path: str, *, expands: bool) -> str | None:
    """Why a path may leave the folder that it is relative to."""
    if path.startswith("/") or _FILLING_SLASH.search(path):
        return "is an absolute path"
    if ".." in path.split("/"):
        return 'has ".." in it'
    if expands and "$" in path:
        return "names a variable of the environment"
    return None


def _device_rules(flags: Mapping[str, Any], pointer: str) -> Iterator[Fault]:
    """On a CPU, devices are counted (lightning_fabric's `_parse_cpu_cores`); everywhere else they can be listed."""
    devices = flags.get("devices")
    is_list = isinstance(devices, list) or (isinstance(devices, str) and "," in devices)
    if flags.get("accelerator") == "cpu" and (is_list or devices == -1):
        message = "on a CPU, `devices` is a number of processes from 1 on"
        yield _excludes(f"{pointer}/devices", f"{pointer}/accelerator", message)
    if flags.get("accelerator") == "cpu" and flags.get("sync_batchnorm") is True:
        yield _excludes(f"{pointer}/sync_batchnorm", f"{pointer}/accelerator", "torch's SyncBatchNorm needs GPUs")
    if flags.get("accelerator") == "tpu":
        if is_list or devices not in (None, "auto", -1, 1):
            yield Fault(f"{pointer}/devices", "not_yet_supported", "A job takes one TPU core: leave `devices` out.")
        if flags.get("strategy") not in (None, "auto"):
            yield _excludes(f"{pointer}/strategy", f"{pointer}/accelerator", "on a TPU, leave `strategy` out")
    if flags.get("precision") is not None and (kind := flags.get("accelerator")) in ("cpu", "tpu", "mps"):
        why = why_lacking(precision_of(flags), {"id": f"{kind}:0"}, {})
        if why is not None:
            yield _excludes(f"{pointer}/precision", f"{pointer}/accelerator", why)


def _classes(value: Any, pointer: str) -> Iterator[tuple[ClassValue, str]]:
    """Each class that a flag names, alone or in a list, with where it stands."""
    several = isinstance(value, list)
    for index, item in enumerate(value if several else [value]):
        spec = read_class_value(item, {})
        if spec is not None and spec.name is not None:
            yield spec, f"{pointer}/{index}" if several else pointer


def _callbacks(value: Any, catalog: Catalog, pointer: str) -> Iterator[tuple[Entry, Mapping[str, Any], str]]:
    """Each callback that can be told: what it is, its arguments, and where it stands."""
    for spec, place in _classes(value, pointer):
        entry = catalog.resolve(str(spec.name), [CALLBACK])
        if isinstance(entry, Entry) and isinstance(spec.args, dict):
            yield entry, spec.args, place


def _callback_rules(
    flags: Mapping[str, Any], callbacks: list[tuple[Entry, Mapping[str, Any], str]], pointer: str
) -> Iterator[Fault]:
    bars: list[str] = []
    states: dict[tuple[Any, ...], str] = {}
    for entry, arguments, place in callbacks:
        saves = entry.is_a([_LIGHTNINGS_CHECKPOINTS])
        if saves and flags.get("enable_checkpointing") is False:
            yield _excludes(place, f"{pointer}/enable_checkpointing", f"{entry.name} saves checkpoints")
        if saves and flags.get("barebones") is True:
            yield _excludes(place, f"{pointer}/barebones", "barebones mode saves no checkpoints")
        if entry.is_a([CHECKPOINT]):
            yield from checkpoint_rules(arguments, f"{place}/init_args")
        if entry.is_a(["pytorch_lightning.callbacks.ProgressBar"]):
            if flags.get("enable_progress_bar") is False:
                yield _excludes(place, f"{pointer}/enable_progress_bar", f"{entry.name} is a progress bar")
            if bars:
                yield _excludes(place, bars[0], "a Trainer has one progress bar")
            bars.append(place)
        if entry.name in {"LearningRateMonitor", "DeviceStatsMonitor"} and flags.get("logger") is False:
            yield _excludes(place, f"{pointer}/logger", f"{entry.name} needs a logger")
        if entry.name == "BatchSizeFinder" and _is_distributed(flags):
            yield _excludes(place, f"{pointer}/devices", "a BatchSizeFinder looks on one device")
        if entry.name == "GradientAccumulationScheduler" and _number(flags.get("accumulate_grad_batches", 1)) != 1:
            yield _excludes(place, f"{pointer}/accumulate_grad_batches", "both set the accumulation")
        if key := _state_key(entry, arguments):
            if key in states:
                message = "both keep their state under one name; they must differ in what they monitor, or how"
                yield _excludes(place, states[key], message)
            states.setdefault(key, place)


def _is_distributed(flags: Mapping[str, Any]) -> bool:
    devices, nodes = flags.get("devices"), flags.get("num_nodes")
    several = isinstance(devices, list) and len(devices) > 1
    return several or any((_number(count) or 0) > 1 for count in (devices, nodes))


def _state_key(entry: Entry, arguments: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """What Lightning keeps a callback's state under; two with the same key are refused (callback_connector.py)."""
    names = {
        CHECKPOINT: ("monitor", "mode", "every_n_train_steps", "every_n_epochs", "train_time_interval"),
        "pytorch_lightning.callbacks.EarlyStopping": ("monitor", "mode"),
    }.get(entry.class_path)
    if names is None:
        return None
    defaults = {name: sub.get("default") for name, sub in entry.schema.get("properties", {}).items()}
    return (entry.class_path, *(str(arguments.get(name, defaults.get(name))) for name in names))
