"""What the OpenAPI document says of request bodies: they are read by `core`, not by FastAPI."""

from collections.abc import Sequence
from typing import Any

from core.spec import (
    ATTEMPTS_MAX,
    LABEL_KEY_CHARACTERS_MAX,
    LABEL_VALUE_CHARACTERS_MAX,
    LABELS_MAX,
    NAME_CHARACTERS_MAX,
    PRIORITY_MAX,
    SUBCOMMANDS,
)

CONFIG: dict[str, Any] = {
    "type": "object",
    "description": "Exactly what LightningCLI reads from its YAML. Held against the catalogue of the workers: "
    "`/v1/catalog` has the schema of each class.",
    "required": ["model"],
    "properties": {
        "seed_everything": {"anyOf": [{"type": "boolean"}, {"type": "integer", "minimum": 0}]},
        "model": {"$ref": "#/components/schemas/ClassValue"},
        "data": {"$ref": "#/components/schemas/ClassValue"},
        "trainer": {"type": "object"},
        "optimizer": {"$ref": "#/components/schemas/ClassValue"},
        "lr_scheduler": {"$ref": "#/components/schemas/ClassValue"},
        "ckpt_path": {
            "type": ["string", "null"],
            "description": "`ckpt_…`, `job_…/best`, `job_…/last` or `job_…/ckpt_…`: never a path or an address.",
        },
        "weights_only": {"type": ["boolean", "null"]},
        "verbose": {"type": "boolean", "description": "Of validate and test."},
        "return_predictions": {"type": ["boolean", "null"], "description": "Of predict."},
    },
}
CLASS_VALUE: dict[str, Any] = {
    "type": "object",
    "properties": {"class_path": {"type": "string"}, "init_args": {"type": "object"}},
}
NAME = {"type": ["string", "null"], "minLength": 1, "maxLength": NAME_CHARACTERS_MAX}
LABELS = {
    "type": "object",
    "maxProperties": LABELS_MAX,
    "propertyNames": {"minLength": 1, "maxLength": LABEL_KEY_CHARACTERS_MAX},
    "additionalProperties": {"type": "string", "maxLength": LABEL_VALUE_CHARACTERS_MAX},
}
PRIORITY = {
    "type": "integer", "minimum": -PRIORITY_MAX, "maximum": PRIORITY_MAX, "description": "Higher goes first.",
}  # fmt: skip
LIMITS = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "max_seconds": {"type": "number", "exclusiveMinimum": 0, "description": "Over all attempts together."},
        "max_attempts": {"type": "integer", "minimum": 1, "maximum": ATTEMPTS_MAX},
        "max_memory_bytes": {"type": ["integer", "null"], "exclusiveMinimum": 0},
        "retry_oom": {"type": ["boolean", "null"]},
    },
}
JOB_SPEC: dict[str, Any] = {
    "type": "object",
    "required": ["config"],
    "additionalProperties": False,
    "properties": {
        "config": {"$ref": "#/components/schemas/LightningConfig"},
        "name": NAME,
        "labels": LABELS,
        "subcommand": {"enum": list(SUBCOMMANDS), "default": "fit"},
        "stop_on_nan": {"type": ["boolean", "null"], "description": "A loss that is not finite ends the job."},
        "when_unavailable": {
            "enum": [None, "wait", "refuse"],
            "description": "What becomes of a job whose devices no live worker has. It waits, unless told otherwise.",
        },
        "weights_from": {
            "type": ["string", "null"],
            "description": "A checkpoint whose weights it starts with: an id, or `job_…/best`, `job_…/last`.",
        },
        "priority": {**PRIORITY, "default": 0},
        "limits": LIMITS,
    },
}
SCHEMAS: dict[str, dict[str, Any]] = {"JobSpec": JOB_SPEC, "LightningConfig": CONFIG, "ClassValue": CLASS_VALUE}
"""Components that the calls below refer to."""


def _json_body(properties: dict[str, Any], *, needed: Sequence[str] = (), is_optional: bool = False) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", "additionalProperties": False, "properties": properties}
    if needed:
        schema["required"] = list(needed)
    return {"requestBody": {"required": not is_optional, "content": {"application/json": {"schema": schema}}}}


_SPEC = {
    "schema": {"anyOf": [{"$ref": "#/components/schemas/JobSpec"}, {"$ref": "#/components/schemas/LightningConfig"}]}
}
SUBMISSION = {"requestBody": {"required": True, "content": {"application/json": _SPEC, "application/yaml": _SPEC}}}
CHANGE = _json_body({"name": NAME, "labels": LABELS, "priority": PRIORITY, "limits": LIMITS})
OVERRIDES = _json_body(
    {
        "config": {"type": "object", "description": "Merged into the config of the job that is run again."},
        "subcommand": {"enum": list(SUBCOMMANDS), "description": "What to do with it this time."},
        "weights_from": {"type": ["string", "null"], "description": "As in a job spec; `best` and `last` are its own."},
    },
    is_optional=True,
)
PIN = _json_body({"pinned": {"type": "boolean"}}, needed=["pinned"])
METRICS_QUERY = _json_body(
    {
        "job_ids": {"type": "array", "items": {"type": "string"}, "minItems": 1},
        "names": {"type": "array", "items": {"type": "string"}, "minItems": 1},
        "max_points": {"type": "integer", "minimum": 1, "default": 1000},
    },
    needed=["job_ids", "names"],
)
