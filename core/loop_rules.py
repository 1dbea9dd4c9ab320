"""Jobs whose `model` is a loop of the user's own, written on Lightning Fabric: what of a config is theirs, what is not.

A loop drives itself. So of the Trainer's flags only those remain that Fabric has too, and what else a config says of a
training belongs to the loop's own arguments.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from core.catalog import LOOP, Catalog, Entry, Kind
from core.class_values import read_class_value
from core.errors import Fault
from core.values import escape

FABRIC_FLAGS = ("accelerator", "devices", "num_nodes", "strategy", "precision", "callbacks")

_OF_THE_LOOP = "belongs to the loop: make it an argument of the class, under `model.init_args`"
_NO_SUCH_FLAG = "is the Trainer's, and Fabric has none"
_WHY_NOT = {
    "logger": "is refused with a loop: what it logs by `fabric.log` and `fabric.log_dict` is kept by this service",
    "enable_checkpointing": f"{_NO_SUCH_FLAG}: a loop saves by `fabric.save` when it wants to",
    "enable_progress_bar": f"{_NO_SUCH_FLAG}: a loop prints what it likes",
    "enable_model_summary": f"{_NO_SUCH_FLAG}: a loop prints what it likes",
    "profiler": f"{_NO_SUCH_FLAG}: use torch.profiler in the loop",
    "detect_anomaly": f"{_NO_SUCH_FLAG}: call torch.autograd.set_detect_anomaly in the loop",
    "deterministic": f"{_NO_SUCH_FLAG}: call torch.use_deterministic_algorithms in the loop",
    "benchmark": f"{_NO_SUCH_FLAG}: set torch.backends.cudnn.benchmark in the loop",
    "sync_batchnorm": f"{_NO_SUCH_FLAG}: call torch.nn.SyncBatchNorm.convert_sync_batchnorm in the loop",
    "use_distributed_sampler": f"{_NO_SUCH_FLAG}: fabric.setup_dataloaders takes it",
    "inference_mode": f"{_NO_SUCH_FLAG}: use torch.no_grad or torch.inference_mode in the loop",
    "barebones": _NO_SUCH_FLAG,
    "enable_autolog_hparams": _NO_SUCH_FLAG,
}
_TOP_KEYS = {
    "data": "A loop takes its data as an argument of its own: move this under `model.init_args`, to a parameter typed"
    " LightningDataModule, for instance.",
    "optimizer": "A loop makes its optimizer itself: give what it needs under `model.init_args`.",
    "lr_scheduler": "A loop makes its scheduler itself: give what it needs under `model.init_args`.",
}


def is_loop(config: Mapping[str, Any], catalog: Catalog) -> bool:
    """Whether the config's `model` names a loop."""
    model = read_class_value(config.get("model"), {})
    if model is None or model.name is None:
        return False
    entry = catalog.get(model.name)
    found = [entry] if entry is not None else catalog.named(model.name)
    kinds = {one.kind for one in found}
    return Kind.LOOP in kinds and Kind.MODEL not in kinds


def loop_refusals(config: Mapping[str, Any], catalog: Catalog, prefix: str, subcommand: str) -> Iterator[Fault]:
    """What a loop's config cannot have, with the reason and what to do instead."""
    if subcommand != "fit":
        message = f"A loop can only `fit`: to {subcommand}, let its `run` do so, by an argument for instance."
        yield Fault(f"{prefix}/model", "refused", message)
    for key, message in _TOP_KEYS.items():
        if config.get(key) is not None:
            yield Fault(f"{prefix}/{key}", "refused", message)
    flags = config.get("trainer")
    for name in flags if isinstance(flags, dict) else ():
        if name not in FABRIC_FLAGS and name in catalog.trainer.get("properties", {}):
            why = _WHY_NOT.get(name, _OF_THE_LOOP)
            yield Fault(f"{prefix}/trainer/{escape(name)}", "refused", f"`{name}` {why}.")
    if isinstance(flags, dict):
        yield from _refused_callbacks(flags.get("callbacks"), catalog, f"{prefix}/trainer/callbacks")


def weights_refusal(config: Mapping[str, Any], catalog: Catalog) -> list[Fault]:
    """Why a loop cannot start with another's weights."""
    if not is_loop(config, catalog):
        return []
    message = "A loop loads its weights itself: give a checkpoint of a loop's as `ckpt_path`, which its `run` loads."
    return [Fault("/weights_from", "refused", message)]


def loop_part(config: Mapping[str, Any], catalog: Catalog) -> dict[str, Any]:
    """The config less what `loop_refusals` speaks of: it has no other fault."""
    kept = {key: value for key, value in config.items() if key not in _TOP_KEYS}
    flags, known = kept.get("trainer"), catalog.trainer.get("properties", {})
    if isinstance(flags, dict):
        kept["trainer"] = {name: flag for name, flag in flags.items() if name in FABRIC_FLAGS or name not in known}
    return kept


def loop_schema(schema: Mapping[str, Any], catalog: Catalog) -> dict[str, Any]:
    """The schema of a loop's config, from that of a LightningModule's."""
    known = catalog.trainer.get("properties", {})
    any_class: dict[str, Any] = {"x-lightyard-class": []}
    flags = {name: known[name] for name in FABRIC_FLAGS if name in known}
    flags["callbacks"] = {"anyOf": [{"type": "null"}, any_class, {"type": "array", "items": any_class}]}
    trainer = {**schema["properties"]["trainer"], "properties": flags, "additionalProperties": False}
    kept = {key: value for key, value in schema["properties"].items() if key not in _TOP_KEYS}
    properties = kept | {"model": {"x-lightyard-class": [LOOP]}, "trainer": trainer}
    return {**schema, "properties": properties | {key: {"type": "null"} for key in _TOP_KEYS}}


def _refused_callbacks(value: Any, catalog: Catalog, pointer: str) -> Iterator[Fault]:
    several = isinstance(value, list)
    for index, item in enumerate(value if several else [value]):
        spec = read_class_value(item, {})
        entry = catalog.resolve(spec.name, ()) if spec is not None and spec.name is not None else None
        if spec is None or not isinstance(entry, Entry):
            continue
        place = (f"{pointer}/{index}" if several else pointer) + "".join(f"/{key}" for key in spec.name_path)
        if entry.builtin:
            message = (
                f"{entry.class_path} works with Lightning's Trainer only. A loop's callbacks are objects of your own"
                " whose methods it calls by `fabric.call`."
            )
            yield Fault(place, "refused", message)
        elif entry.kind not in (Kind.CALLBACK, Kind.OBJECT):
            message = f"{entry.class_path} is no callback: give a class of objects whose methods the loop calls."
            yield Fault(place, "wrong_kind", message)
