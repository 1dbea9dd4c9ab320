"""The job spec: what a caller sends to start a job, read and checked as a whole."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from core.catalog import Catalog
from core.errors import Fault, Invalid
from core.loop_rules import weights_refusal
from core.references import form_faults
from core.schema_faults import did_you_mean, faults_of
from core.schemas import Validator, strict_validator
from core.validate import validate
from core.values import FAULTS_MAX, INTEGER_MAX, at_most, escape

NAME_CHARACTERS_MAX = 200
LABELS_MAX = 64
LABEL_KEY_CHARACTERS_MAX = 63
LABEL_VALUE_CHARACTERS_MAX = 255
PRIORITY_MAX = 100
ATTEMPTS_MAX = 100

SUBCOMMANDS = ("fit", "validate", "test", "predict")
LIGHTNING_KEYS = (
    "model",
    "trainer",
    "data",
    "seed_everything",
    "optimizer",
    "lr_scheduler",
    "ckpt_path",
    "weights_only",
    "verbose",
    "return_predictions",
)
"""Top keys of a config of LightningCLI."""
_LATER = {"bundle": "Code bundles", "webhook": "Webhooks"}

_TEXT = {
    "type": "string",
    # No control characters, and none that turn the direction of what is written around them.
    "pattern": r"^[^\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]*\Z",
    "x-lightyard-expected": "text without control characters",
}
_LIMIT_SCHEMAS: dict[str, Any] = {
    "max_seconds": {"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": INTEGER_MAX},
    "max_attempts": {"type": ["integer", "null"], "minimum": 1, "maximum": ATTEMPTS_MAX},
    "max_memory_bytes": {"type": ["integer", "null"], "exclusiveMinimum": 0, "maximum": INTEGER_MAX},
    "retry_oom": {"type": ["boolean", "null"]},
}
_SCHEMAS: dict[str, Any] = {
    "name": {
        "anyOf": [{"type": "null"}, {**_TEXT, "minLength": 1, "maxLength": NAME_CHARACTERS_MAX}],
    },
    "labels": {
        "type": ["object", "null"],
        "maxProperties": LABELS_MAX,
        "propertyNames": {**_TEXT, "minLength": 1, "maxLength": LABEL_KEY_CHARACTERS_MAX},
        "additionalProperties": {**_TEXT, "maxLength": LABEL_VALUE_CHARACTERS_MAX},
    },
    "subcommand": {"enum": list(SUBCOMMANDS)},
    "stop_on_nan": {"type": ["boolean", "null"]},
    "when_unavailable": {"enum": [None, "wait", "refuse"]},
    "weights_from": {"type": ["string", "null"], "minLength": 1, "maxLength": 200},
    "priority": {"type": "integer", "minimum": -PRIORITY_MAX, "maximum": PRIORITY_MAX},
    "limits": {
        "type": ["object", "null"],
        "properties": _LIMIT_SCHEMAS,
        "additionalProperties": False,
        "x-lightyard-unknown": "unknown_field",
    },
}
_VALIDATORS: dict[str, Validator] = {name: strict_validator(schema) for name, schema in _SCHEMAS.items()}


@dataclass(frozen=True, slots=True)
class Limits:
    """A job's own limits; what is None is limited by the settings."""

    max_seconds: float | None = None
    max_attempts: int | None = None
    max_memory_bytes: int | None = None
    retry_oom: bool | None = None
    """Whether running out of memory, which is the job's own fault as a rule, is tried again like a lost worker."""


@dataclass(frozen=True, slots=True)
class JobSpec:
    """A job to be, read from a body."""

    config: Mapping[str, Any]
    """What LightningCLI reads: not checked against a catalogue yet, unless it comes from `check`."""
    config_pointer: str = ""
    """Where in the body the config stands: "" where the body is a LightningCLI config itself, else "/config"."""
    name: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    subcommand: str = "fit"
    priority: int = 0
    limits: Limits = Limits()
    stop_on_nan: bool | None = None
    """Whether a loss that is not finite ends the job as diverged."""
    when_unavailable: str | None = None
    """What becomes of a job whose devices no live worker has: it waits (None, "wait") or is refused at submit."""
    weights_from: str | None = None
    """The checkpoint whose weights the job starts with: its id, or `job_…/best`, `job_…/last`."""


def read_spec(document: Any) -> JobSpec:
    """The spec that a body holds, its config unchecked. Raises Invalid with every fault of the rest."""
    spec, faults = _read(document)
    if spec is None or faults:
        raise Invalid("The job spec is invalid.", at_most(faults))
    return spec


def check(
    document: Any, catalog: Catalog, more: Callable[[JobSpec], list[Fault]] = lambda _: []
) -> tuple[JobSpec | None, list[Fault]]:
    """The spec that a body holds, and every fault of it and of its config; without a fault, it can run.

    `more` finds the faults that neither the body nor the catalogue tells.
    """
    spec, faults = _read(document)
    if spec is not None and len(faults) <= FAULTS_MAX:
        found = validate(spec.config, catalog, pointer_prefix=spec.config_pointer, subcommand=spec.subcommand)
        if spec.weights_from is not None:
            found += weights_refusal(spec.config, catalog)
        faults = faults + found + more(spec)
    return (None if faults else spec), at_most(faults)


def read_fields(document: Mapping[str, Any], names: tuple[str, ...]) -> tuple[dict[str, Any], list[Fault]]:
    """Those of a job's own fields that `document` gives, for a change of a job, and every fault of it."""
    values: dict[str, Any] = {}
    faults: list[Fault] = []
    for key, value in document.items():
        if len(faults) > FAULTS_MAX:
            break
        if key not in names:
            faults.append(
                Fault(f"/{escape(key)}", "unknown_field", f"There is no {key[:100]!r} here.{did_you_mean(key, names)}")
            )
            continue
        found = at_most(faults_of(_VALIDATORS[key], value, f"/{key}"))
        faults += found
        if not found:
            values[key] = _field(key, value)
    return values, at_most(faults)


def _read(document: Any) -> tuple[JobSpec | None, list[Fault]]:
    spec, faults = _read_body(document)
    return spec, faults + (_weights_faults(spec) if spec is not None else [])


def _weights_faults(spec: JobSpec) -> list[Fault]:
    """What is wrong with the weights that a job is to start with, by its form alone."""
    if spec.weights_from is None:
        return []
    faults, place = form_faults(spec.weights_from, "/weights_from"), f"{spec.config_pointer}/ckpt_path"
    if spec.subcommand != "fit":
        message = f"`{spec.subcommand}` takes its weights from {place}: put the checkpoint there."
        faults.append(Fault("/weights_from", "refused", message))
    elif spec.config.get("ckpt_path") is not None:
        message = f"This and {place} exclude each other: that one restores the weights and all else."
        faults.append(Fault("/weights_from", "excludes", message))
    return faults


def _read_body(document: Any) -> tuple[JobSpec | None, list[Fault]]:
    if not isinstance(document, dict):
        return None, [Fault("", "wrong_type", "The body must be an object: a job spec, or a LightningCLI config.")]
    if "config" in document:
        return _read_job(document)
    layers = [name for name in SUBCOMMANDS if isinstance(document.get(name), dict)]
    if layers and "model" not in document:
        return _read_layer(document, "", None)
    if any(key in document for key in LIGHTNING_KEYS):
        return _read_plain(document)
    known = ("config", *_SCHEMAS, *_LATER)
    faults = _fields(document, known)[1]
    message = "The body has neither `config` nor `model`: send a job spec with a `config`, or a LightningCLI config."
    return None, [*faults, Fault("/config", "missing_field", message)]


def _read_plain(document: Mapping[str, Any]) -> tuple[JobSpec | None, list[Fault]]:
    """A LightningCLI config as it is; fields of a job spec beside its keys are in the wrong place."""
    misplaced = [key for key in document if key in _SCHEMAS or key in _LATER]
    faults = [
        Fault(
            f"/{key}",
            "unknown_field",
            f"`{key}` belongs to a job spec: put the LightningCLI config, `model` and all, under `config` beside it.",
        )
        for key in misplaced
    ]
    return JobSpec({key: value for key, value in document.items() if key not in misplaced}), faults


def _read_job(document: Mapping[str, Any]) -> tuple[JobSpec | None, list[Fault]]:
    values, faults = _fields(document, ("config", *_SCHEMAS, *_LATER))
    config, pointer = document["config"], "/config"
    if not isinstance(config, dict):
        message = "`config` must be an object, as LightningCLI reads from YAML."
        return None, [*faults, Fault(pointer, "wrong_type", message)]
    if "model" not in config and any(isinstance(config.get(name), dict) for name in SUBCOMMANDS):
        layered, more = _read_layer(config, pointer, values.get("subcommand"))
        faults += more
        if layered is None:
            return None, faults
        config, pointer, values["subcommand"] = layered.config, layered.config_pointer, layered.subcommand
    return JobSpec(config, pointer, **values), faults


def _read_layer(document: Mapping[str, Any], prefix: str, outer: str | None) -> tuple[JobSpec | None, list[Fault]]:
    """A config with the subcommand on top, as LightningCLI prints it: `{fit: {model: …}}`.

    Of several layers the one counts that `subcommand` names, here or in the job spec around it (`outer`).
    """
    faults: list[Fault] = []
    layers = [name for name in SUBCOMMANDS if isinstance(document.get(name), dict)]
    for key, value in document.items():
        if len(faults) > FAULTS_MAX:
            break
        if key == "subcommand":
            faults += at_most(faults_of(_VALIDATORS[key], value, f"{prefix}/{key}"))
        elif key not in SUBCOMMANDS:
            message = f"There is no {key[:100]!r} beside `{layers[0]}`."
            faults.append(Fault(f"{prefix}/{escape(key)}", "unknown_field", message))
        elif value is not None and key not in layers:
            faults.append(Fault(f"{prefix}/{key}", "wrong_type", "Expected an object, the config, or null."))
    said = document.get("subcommand")
    said = said if said in SUBCOMMANDS else None
    if said and outer and said != outer:
        faults.append(Fault(f"{prefix}/subcommand", "excludes", f"/subcommand says `{outer}`: they must agree."))
    chosen = said or outer or layers[0]
    if not (said or outer) and len(layers) > 1:
        message = f"There are configs for {' and '.join(layers)}: say with `subcommand` which of them is to run."
        faults.append(Fault(f"{prefix}/subcommand", "missing_field", message))
    elif chosen not in layers:
        message = f"`{chosen}` is to run, and there is a config for {' and '.join(layers)} only."
        faults.append(Fault(f"{prefix}/{chosen}", "missing_field", message))
        return None, faults
    return JobSpec(document[chosen], f"{prefix}/{chosen}", subcommand=chosen), faults


def _fields(document: Mapping[str, Any], known: tuple[str, ...]) -> tuple[dict[str, Any], list[Fault]]:
    """The spec's own fields, less its config."""
    values: dict[str, Any] = {}
    faults: list[Fault] = []
    for key, value in document.items():
        if len(faults) > FAULTS_MAX:
            break
        if key == "config":
            continue
        if key in _LATER:
            if value is not None:
                faults.append(Fault(f"/{key}", "not_yet_supported", f"{_LATER[key]} are not supported yet: remove it."))
        elif key in LIGHTNING_KEYS:
            message = f"`{key}` belongs to the LightningCLI config: put it under `config`."
            faults.append(Fault(f"/{key}", "unknown_field", message))
        elif key not in known:
            message = f"A job spec has no {key[:100]!r}.{did_you_mean(key, known)}"
            faults.append(Fault(f"/{escape(key)}", "unknown_field", message))
        else:
            found = at_most(faults_of(_VALIDATORS[key], value, f"/{key}"))
            faults += found
            if not found:
                values[key] = _field(key, value)
    return values, faults


def _field(key: str, value: Any) -> Any:
    if key == "limits":
        return Limits(**(value or {}))
    return value or {} if key == "labels" else value
