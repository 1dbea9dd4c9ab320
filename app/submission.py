"""From a body to a job: read, held against the catalogue, with what the service decides filled in."""

import itertools
import secrets
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from app.missing import missing
from app.schemas.jobs import ValidationOut
from app.schemas.resource import FaultOut
from app.service import Service
from app.starting import Start
from core.catalog import Catalog
from core.defaults import defaults, request, resolved
from core.documents import JSON_TYPES, read_document
from core.errors import BadRequest, Fault, Invalid, UnsupportedMediaType
from core.job import Job, NewJob
from core.references import FORMS, read_reference
from core.settings import Settings
from core.spec import JobSpec, Limits, check, read_fields
from core.values import FAULTS_MAX, TOO_MANY, at_most, escape

SEEDS = 2**32
"""numpy's, which `seed_everything` holds to."""
PATCHABLE = ("name", "labels", "priority", "limits")
OVERRIDABLE = ("config", "subcommand", "weights_from")


def new_job(parts: Service, project_id: str, body: bytes, content_type: str | None) -> NewJob:
    """The job that a submission asks for. Raises `Invalid` with every fault, and what reading the body raises."""
    document = _read(parts.config, body, content_type)
    catalog = parts.catalog.current()
    start = Start(parts.origins, project_id)
    spec, faults = check(document, catalog, start.faults)
    if spec is None or (faults := missing(parts, spec)):
        raise _invalid(faults)
    return _as_new_job(spec, catalog, parts.config, start)


def validated(parts: Service, project_id: str, body: bytes, content_type: str | None) -> ValidationOut:
    """What is wrong with a submission; raises only for a body that cannot be read at all."""
    try:
        document = _read(parts.config, body, content_type)
        catalog = parts.catalog.current()
        spec, faults = check(document, catalog, Start(parts.origins, project_id).faults)
        if spec is not None and (faults := missing(parts, spec)):
            spec = None
    except Invalid as error:
        spec, faults = None, list(error.faults)
    errors = [FaultOut(pointer=fault.pointer, code=fault.code, message=fault.message) for fault in faults]
    return ValidationOut(
        valid=spec is not None, errors=errors, config=defaults(spec.config, catalog) if spec is not None else None
    )


def overridden(parts: Service, parent: Job, body: bytes, content_type: str | None, start_from: str | None) -> NewJob:
    """The job that runs another again, with the `config` in the body, if any, merged into its own.

    `start_from` names the checkpoint from which it goes on: `best` and `last` are the other's own. Raises `Invalid`
    with every fault, `BadRequest` or `NotFound` for that name, and what reading the body raises.
    """
    changes = _overrides(parts, body, content_type)
    overrides: dict[str, Any] = changes.get("config", {})
    config = merged(parent.config, overrides)
    # What it had resolved stays as it is; `last` and `best` in the body are those of the job that is run again.
    start = Start(parts.origins, parent.project_id, parent.id if "ckpt_path" in overrides else None)
    weights = Start(parts.origins, parent.project_id, parent.id)
    if start_from is not None:
        if overrides.get("ckpt_path") is not None:
            message = "This and the query's `from` exclude each other: both say where to go on from."
            raise _invalid([Fault("/config/ckpt_path", "excludes", message)])
        config["ckpt_path"] = _found(parts, parent, start_from)
    spec_of: dict[str, Any] = {"config": config, "subcommand": changes.get("subcommand", parent.subcommand)}
    if "weights_from" in changes:
        spec_of["weights_from"] = changes["weights_from"]
        if start_from is None and "ckpt_path" not in overrides:
            config.pop("ckpt_path", None)  # the other's own start, in place of which these weights are
    elif config.get("ckpt_path") is None and spec_of["subcommand"] == "fit":
        spec_of["weights_from"] = parent.weights_checkpoint_id

    def origins(spec: JobSpec) -> list[Fault]:
        return start.faults(replace(spec, weights_from=None)) + weights.faults(replace(spec, config={}))

    catalog = parts.catalog.current()
    spec, faults = check(spec_of, catalog, origins)
    if spec is None or (faults := missing(parts, spec)):
        raise _invalid(faults)
    asked = request(spec.config)
    full, classes = resolved(spec.config, catalog)
    return NewJob(
        config=_seeded(_started(full, start)),
        start_checkpoint_id=start.checkpoint_id,
        weights_checkpoint_id=weights.weights_id,
        class_paths=sorted(classes),
        accelerator=asked.accelerator,
        devices=asked.devices,
        nodes=asked.num_nodes,
        max_seconds=parent.max_seconds,
        max_attempts=parent.max_attempts,
        max_memory_bytes=parent.max_memory_bytes,
        retry_oom=parent.retry_oom,
        stop_on_nan=parent.stop_on_nan,
        name=parent.name,
        labels=parent.labels,
        subcommand=spec.subcommand,
        priority=parent.priority,
        parent_id=parent.id,
    )


def _overrides(parts: Service, body: bytes, content_type: str | None) -> dict[str, Any]:
    """What a retry is to change. Raises `Invalid` with every fault."""
    if not body.strip():
        return {}
    document = read_json(parts, body, content_type)
    if not isinstance(document, dict):
        raise Invalid("The body must be an object.", [Fault("", "wrong_type", "Expected an object.")])
    known = ", ".join(f"`{name}`" for name in OVERRIDABLE)
    faults = [
        Fault(f"/{escape(key)}", "unknown_field", f"Only {known} are read here: what is to be another.")
        for key in itertools.islice(document, FAULTS_MAX + 2)
        if key not in OVERRIDABLE
    ]
    if not isinstance(document.get("config", {}), dict):
        faults.append(Fault("/config", "wrong_type", "Expected an object."))
    if faults:
        raise _invalid(at_most(faults))
    return document


def _found(parts: Service, parent: Job, name: str) -> str:
    reference = read_reference(name)
    if reference is None:
        raise BadRequest(f"from is {name[:100]!r}: give `last`, `best`, {FORMS}.", code="bad_parameter")
    return parts.origins.find(parent.project_id, reference, parent.id)


def _started(config: dict[str, Any], start: Start) -> dict[str, Any]:
    """The config with the very checkpoint that was meant: the best of a job may be another one tomorrow."""
    return config | ({"ckpt_path": start.checkpoint_id} if start.checkpoint_id else {})


def changes_in(parts: Service, body: bytes, content_type: str | None) -> dict[str, Any]:
    """What a PATCH changes, as the values of a job. Raises `Invalid` with every fault."""
    document = read_json(parts, body, content_type)
    if not isinstance(document, dict):
        raise Invalid("The body must be an object.", [Fault("", "wrong_type", "Expected an object.")])
    changes, faults = read_fields(document, PATCHABLE)
    if faults:
        raise Invalid("The change is wrong.", faults)
    limits: Limits | None = changes.pop("limits", None)
    if limits is not None:
        given = {name: getattr(limits, name) for name in document["limits"] or {}}
        defaults_of = {
            "max_seconds": parts.config.job_max_seconds,
            "max_attempts": parts.config.job_max_attempts,
            "max_memory_bytes": parts.config.job_max_memory_bytes or None,
            "retry_oom": False,
        }
        changes |= {name: defaults_of[name] if value is None else value for name, value in given.items()}
    return changes


def read_json(parts: Service, body: bytes, content_type: str | None) -> Any:
    """A JSON body. Raises as `core.documents.read_document`."""
    media_type = (content_type or "").partition(";")[0].strip().lower()
    if media_type not in JSON_TYPES:
        raise UnsupportedMediaType(
            f"Content-Type {media_type[:100]!r} is not read here: send application/json.",
            headers={"Accept": "application/json"},
        )
    return _read(parts.config, body, content_type)


def merged(config: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A config with overrides merged in, objects by their keys; one that names another class replaces the whole."""
    result = dict(config)
    for key, value in overrides.items():
        there = result.get(key)
        if isinstance(value, dict) and isinstance(there, dict) and not _is_another_class(there, value):
            result[key] = merged(there, value)
        else:
            result[key] = value
    return result


def _is_another_class(there: Mapping[str, Any], value: Mapping[str, Any]) -> bool:
    return "class_path" in value and "class_path" in there and value["class_path"] != there["class_path"]


def _read(config: Settings, body: bytes, content_type: str | None) -> Any:
    try:
        return read_document(
            body,
            content_type,
            max_bytes=config.body_max_bytes,
            max_depth=config.body_max_depth,
            max_nodes=config.body_max_nodes,
        )
    except UnsupportedMediaType as error:
        error.extra.setdefault("headers", {"Accept": "application/json, application/yaml"})
        raise


def _as_new_job(spec: JobSpec, catalog: Catalog, config: Settings, start: Start) -> NewJob:
    asked = request(spec.config)
    limits = spec.limits
    full, classes = resolved(spec.config, catalog)
    return NewJob(
        config=_seeded(_started(full, start)),
        start_checkpoint_id=start.checkpoint_id,
        weights_checkpoint_id=start.weights_id,
        class_paths=sorted(classes),
        accelerator=asked.accelerator,
        devices=asked.devices,
        nodes=asked.num_nodes,
        max_seconds=config.job_max_seconds if limits.max_seconds is None else limits.max_seconds,
        max_attempts=config.job_max_attempts if limits.max_attempts is None else limits.max_attempts,
        max_memory_bytes=limits.max_memory_bytes or config.job_max_memory_bytes or None,
        retry_oom=bool(limits.retry_oom),
        stop_on_nan=bool(spec.stop_on_nan),
        name=spec.name,
        labels=spec.labels,
        subcommand=spec.subcommand,
        priority=spec.priority,
    )


def _seeded(config: dict[str, Any]) -> dict[str, Any]:
    """The config with a seed of its own where LightningCLI would draw one anew at each start of the trainer."""
    seed = config.get("seed_everything")
    if seed is None or seed is True:
        return config | {"seed_everything": secrets.randbelow(SEEDS)}
    return config


def _invalid(faults: list[Fault]) -> Invalid:
    if faults[-1].code == TOO_MANY:
        return Invalid(f"More than {FAULTS_MAX} things are wrong with this job; see errors for the first.", faults)
    count = len(faults)
    return Invalid(f"{count} thing{'s are' if count != 1 else ' is'} wrong with this job; see errors.", faults)
