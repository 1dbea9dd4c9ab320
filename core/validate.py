"""A LightningCLI config held against the catalogue: every fault at once, each at its place."""

from collections.abc import Mapping
from typing import Any

from core.catalog import DATA_MODULE, LIGHTNING_MODULE, LR_SCHEDULER, OPTIMIZER, PLATEAU, Catalog
from core.class_values import read_class_value
from core.errors import Fault
from core.schema_faults import faults_of
from core.schemas import Validator, config_validator
from core.trainer_rules import exclusions, refusals

_TORCH_PLATEAU = "torch.optim.lr_scheduler.ReduceLROnPlateau"
_SEED_MAX = 2**32 - 1  # numpy's, which seed_everything holds to


def validate(config: Any, catalog: Catalog, *, pointer_prefix: str = "") -> list[Fault]:
    """Every fault of `config`; `pointer_prefix` is where in the body it stands ("" or "/config").

    None means that LightningCLI reads it, on a worker that has the classes. The reverse holds too, but for what this
    service refuses (`core.trainer_rules`), for keys with dots and `+`, which are to be written nested, and for values
    that would raise later.
    """
    if not isinstance(config, dict):
        return [Fault(pointer_prefix, "wrong_type", "The config must be an object, as LightningCLI reads from YAML.")]
    trainer = config.get("trainer")
    flags: Mapping[str, Any] = trainer if isinstance(trainer, dict) else {}
    refused = [*refusals(flags, catalog, f"{pointer_prefix}/trainer"), *_refusals(config, pointer_prefix)]
    places = [fault.pointer for fault in refused]
    schema_faults = [
        fault
        for fault in faults_of(config_schema(catalog), config, pointer_prefix)
        if not any(fault.pointer == place or fault.pointer.startswith(f"{place}/") for place in places)
    ]
    rules = [*exclusions(flags, catalog, f"{pointer_prefix}/trainer"), *_optimizer_rules(config, pointer_prefix)]
    return _in_order([*schema_faults, *refused, *rules], config, pointer_prefix)


def config_schema(catalog: Catalog) -> Validator:
    """The validator of whole configs for this catalogue, made once for each."""
    if "config_validator" not in catalog.memo:
        catalog.memo["config_validator"] = config_validator(catalog, _schema(catalog))
    return catalog.memo["config_validator"]


def _schema(catalog: Catalog) -> dict[str, Any]:
    def one_of(*bases: str) -> dict[str, Any]:
        return {"x-lightyard-class": list(bases)}

    def optional(schema: dict[str, Any]) -> dict[str, Any]:
        return {"anyOf": [schema, {"type": "null"}]}

    seed = {"type": "integer", "minimum": 0, "maximum": _SEED_MAX}
    return {
        "type": "object",
        "properties": {
            "seed_everything": {
                "anyOf": [{"type": ["boolean", "null"]}, seed],
                "x-lightyard-expected": "true, false or an integer from 0 on",
            },
            "trainer": optional(dict(catalog.trainer)),
            "model": one_of(LIGHTNING_MODULE),
            "data": optional(one_of(DATA_MODULE)),
            "optimizer": optional(one_of(OPTIMIZER)),
            "lr_scheduler": optional(one_of(LR_SCHEDULER, PLATEAU)),
            "ckpt_path": {},
            "weights_only": {"type": ["boolean", "null"]},
        },
        "required": ["model"],
        "additionalProperties": False,
        "x-lightyard-unknown": "unknown_field",
    }


def _refusals(config: Mapping[str, Any], prefix: str) -> list[Fault]:
    faults = []
    if config.get("ckpt_path") is not None:
        message = "Starting from a checkpoint is not supported yet: leave ckpt_path out, or null."
        faults.append(Fault(f"{prefix}/ckpt_path", "not_yet_supported", message))
    if config.get("weights_only") is False:
        message = "A checkpoint is only ever loaded with weights_only, because any other may run code."
        faults.append(Fault(f"{prefix}/weights_only", "refused", message))
    return faults


def _optimizer_rules(config: Mapping[str, Any], prefix: str) -> list[Fault]:
    faults = []
    optimizer, scheduler = (read_class_value(config.get(key), {}) for key in ("optimizer", "lr_scheduler"))
    if scheduler and not config.get("optimizer"):
        message = "LightningCLI uses `lr_scheduler` only together with `optimizer`: give that too."
        faults.append(Fault(f"{prefix}/lr_scheduler", "requires", message))
    if scheduler and scheduler.name == _TORCH_PLATEAU:
        place = "".join(f"/{key}" for key in scheduler.name_path)
        message = f"This scheduler needs to know what to monitor: use {PLATEAU}, which takes `monitor`."
        faults.append(Fault(f"{prefix}/lr_scheduler{place}", "refused", message))
    if optimizer and isinstance(optimizer.args, dict):
        place = f"{prefix}/optimizer/init_args"
        args = optimizer.args
        if args.get("fused") is True:
            faults += [
                Fault(f"{place}/{name}", "excludes", f"This and {place}/fused exclude each other.")
                for name in ("foreach", "differentiable")
                if args.get(name) is True
            ]
        if args.get("nesterov") is True and "momentum" not in args and str(optimizer.name).endswith("SGD"):
            message = "Nesterov momentum needs a `momentum` above 0."
            faults.append(Fault(f"{place}/nesterov", "requires", message))
    return faults


def _in_order(faults: list[Fault], config: Any, prefix: str) -> list[Fault]:
    """The faults without repetition, in the order in which the document names the places."""

    def place(fault: Fault) -> list[int]:
        value, order = config, []
        for token in fault.pointer.removeprefix(prefix).split("/")[1:]:
            key = token.replace("~1", "/").replace("~0", "~")
            members = value if isinstance(value, dict) else dict(enumerate(value)) if isinstance(value, list) else {}
            keys = [str(name) for name in members]
            order.append(keys.index(key) if key in keys else len(keys))
            value = list(members.values())[order[-1]] if key in keys else None
        return order

    return sorted(dict.fromkeys(faults), key=place)
