"""A LightningCLI config held against the catalogue: every fault at once, each at its place."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from core.catalog import DATA_MODULE, LIGHTNING_MODULE, LOADERS, LR_SCHEDULER, OPTIMIZER, PLATEAU, Catalog
from core.class_values import read_class_value, takes_class
from core.errors import Fault
from core.loop_rules import is_loop, loop_part, loop_refusals, loop_schema
from core.references import form_faults
from core.schema_faults import faults_of
from core.schemas import Validator, config_validator, read_collection
from core.trainer_rules import exclusions, refusals
from core.values import TOO_MANY, at_most

_TORCH_PLATEAU = "torch.optim.lr_scheduler.ReduceLROnPlateau"
_KEYS_OF = {"verbose": ("validate", "test"), "return_predictions": ("predict",)}
"""Keys that LightningCLI reads for some subcommands only."""
_SEED_MAX = 2**32 - 1  # numpy's, which seed_everything holds to

CLASSES_MAX = 2_000
"""Each is looked up, checked and spelled out, which takes a tenth of a millisecond: far more than any model has."""
COLLECTION_CHARACTERS_MAX = 50_000
"""Of all lists and objects that a config writes as strings, which the limit of a body's values does not see."""


def validate(config: Any, catalog: Catalog, *, pointer_prefix: str = "", subcommand: str = "fit") -> list[Fault]:
    """The faults of `config`; `pointer_prefix` is where in the body it stands ("" or "/config").

    All of them, in the order of the document; of more than `core.values.FAULTS_MAX`, so many, and a last one that says
    where the search stopped.

    None means that LightningCLI reads it, on a worker that has the classes. The reverse holds too, but for what this
    service refuses (`core.trainer_rules`), for keys with dots and `+`, which are to be written nested, and for values
    that would raise later.
    """
    if not isinstance(config, dict):
        return [Fault(pointer_prefix, "wrong_type", "The config must be an object, as LightningCLI reads from YAML.")]
    if too_large := _too_large(config, catalog, pointer_prefix):
        return [too_large]
    found = at_most(_faults(config, catalog, pointer_prefix, subcommand))
    stopped = [fault for fault in found if fault.code == TOO_MANY][:1]
    rest = [fault for fault in found if fault.code != TOO_MANY]
    return _in_order(rest, config, pointer_prefix) + stopped


def _faults(config: Mapping[str, Any], catalog: Catalog, prefix: str, subcommand: str) -> Iterator[Fault]:
    """Each looked for when the one before it has been taken; a place that is refused has no other fault."""
    if is_loop(config, catalog):
        yield from loop_refusals(config, catalog, prefix, subcommand)
        config = loop_part(config, catalog)
    trainer = config.get("trainer")
    flags: Mapping[str, Any] = trainer if isinstance(trainer, dict) else {}
    places = []
    refused_flags = refusals(flags, catalog, f"{prefix}/trainer")
    for refused in itertools.chain(refused_flags, _refusals(config, prefix, subcommand)):
        places.append(refused.pointer)
        yield refused
    validator = config_schema(catalog, config)
    if flags:
        flags = {name: _read_flag(validator, value, catalog.trainer, name) for name, value in flags.items()}
        config = {**config, "trainer": flags}
    for fault in at_most(faults_of(validator, config, prefix)):
        if fault.code == TOO_MANY or not any(_is_at_or_below(fault.pointer, place) for place in places):
            yield fault
    yield from exclusions(flags, catalog, f"{prefix}/trainer")
    yield from _optimizer_rules(config, prefix)


def _is_at_or_below(pointer: str, place: str) -> bool:
    return pointer == place or pointer.startswith(f"{place}/")


def _read_flag(validator: Validator, value: Any, schema: Mapping[str, Any], name: str) -> Any:
    """A flag that may be written as a string, as LightningCLI saves `max_time`; classes are to be seen by the rules."""
    if takes_class(schema.get("properties", {}).get(name, {})):
        return value
    return read_collection(validator, value, schema, name)


def _too_large(config: Mapping[str, Any], catalog: Catalog, prefix: str) -> Fault | None:
    """What would take long to check, and longer to spell out, although it is within the limits of a body."""
    classes = characters = 0
    pending: list[Any] = [config]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            pending += value.values()
        elif isinstance(value, list):
            pending += value
        elif isinstance(value, str):
            classes += catalog.knows(value)
            characters += len(value) if value.lstrip()[:1] in {"[", "{"} else 0
    if classes > CLASSES_MAX:
        message = f"The config names {classes} classes and functions; at most {CLASSES_MAX} are taken."
        return Fault(prefix, "out_of_range", message)
    if characters > COLLECTION_CHARACTERS_MAX:
        message = (
            f"The config writes lists and objects as strings, {characters} characters in all; at most"
            f" {COLLECTION_CHARACTERS_MAX} are read so: write them as what they are."
        )
        return Fault(prefix, "out_of_range", message)
    return None


def config_schema(catalog: Catalog, config: Mapping[str, Any]) -> Validator:
    """The validator of whole configs of this one's kind for this catalogue, made once for each."""
    loop = is_loop(config, catalog)
    name = "loop_validator" if loop else "config_validator"
    if name not in catalog.memo:
        schema = _schema(catalog)
        catalog.memo[name] = config_validator(catalog, loop_schema(schema, catalog) if loop else schema)
    return catalog.memo[name]


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
            # LightningCLI parses a null there, and then fails on it.
            "trainer": {
                **catalog.trainer,
                "x-lightyard-expected": "an object of the Trainer's flags; to give none, leave `trainer` out",
            },
            "model": one_of(LIGHTNING_MODULE),
            "data": optional(one_of(DATA_MODULE, LOADERS)),
            "optimizer": optional(one_of(OPTIMIZER)),
            "lr_scheduler": optional(one_of(LR_SCHEDULER, PLATEAU)),
            "ckpt_path": {},
            "weights_only": {"type": ["boolean", "null"]},
            "verbose": {"type": "boolean"},
            "return_predictions": {"type": ["boolean", "null"]},
        },
        "required": ["model"],
        "additionalProperties": False,
        "x-lightyard-unknown": "unknown_field",
    }


def _refusals(config: Mapping[str, Any], prefix: str, subcommand: str) -> list[Fault]:
    faults = form_faults(config.get("ckpt_path"), f"{prefix}/ckpt_path")
    for key, subcommands in _KEYS_OF.items():
        if key in config and subcommand not in subcommands:
            message = f"`{key}` is read by the subcommand {' and '.join(subcommands)}; this is {subcommand}: remove it."
            faults.append(Fault(f"{prefix}/{key}", "unknown_field", message))
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


def _in_order(faults: Sequence[Fault], config: Any, prefix: str) -> list[Fault]:
    """The faults without repetition, in the order in which the document names the places."""
    positions_in: dict[int, dict[str, int]] = {}

    def place(fault: Fault) -> list[int]:
        value, order = config, []
        for token in fault.pointer.removeprefix(prefix).split("/")[1:]:
            key = token.replace("~1", "/").replace("~0", "~")
            members: Any = value if isinstance(value, (dict, list)) else ()
            if id(members) not in positions_in:
                keys = members if isinstance(members, dict) else range(len(members))
                positions_in[id(members)] = {str(name): position for position, name in enumerate(keys)}
            position = positions_in[id(members)].get(key)
            order.append(len(members) if position is None else position)
            value = None if position is None else members[key if isinstance(members, dict) else position]
        return order

    return sorted(dict.fromkeys(faults), key=place)
