"""A valid config, spelled out: full class paths, defaults filled in, the classes it needs, the devices it asks for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.catalog import Catalog, Entry, Kind
from core.class_values import TYPE, ClassValue, arguments_schema, is_class_schema, read_class_value, resolve_class
from core.schemas import Validator, accepts
from core.validate import config_schema
from core.yaml_reader import yaml_scalar

ACCELERATORS = {"cuda": "gpu"}
_OF_WHAT_IS_INSIDE = frozenset(
    {"anyOf", "items", "prefixItems", "properties", "required", "additionalProperties", "x-lightyard-any"}
)


@dataclass(frozen=True, slots=True)
class Request:
    """What a config asks for: `accelerator` is auto, cpu, gpu, tpu or mps."""

    accelerator: str
    devices: int
    num_nodes: int


def defaults(config: Mapping[str, Any], catalog: Catalog) -> dict[str, Any]:
    """A config that `validate` found no fault in, with every default filled in and every class by its full path."""
    filled = _Walk(catalog, fill=True).value(dict(config), config_schema(catalog, config).schema)
    assert isinstance(filled, dict)
    return filled


def resolved(config: Mapping[str, Any], catalog: Catalog) -> tuple[dict[str, Any], frozenset[str]]:
    """A config that `validate` found no fault in, as it is but for short class names, which become full paths.

    So it means the same on a worker that knows more classes of these names. With it come the full paths of all the
    classes and functions that it names: what a worker must have to run it.
    """
    walk = _Walk(catalog, fill=False)
    result = walk.value(dict(config), config_schema(catalog, config).schema)
    assert isinstance(result, dict)
    return result, frozenset(walk.found)


def request(config: Mapping[str, Any]) -> Request:
    """The resources that a valid config's Trainer flags ask for.

    `devices` that say no number (absent, `auto`, -1) mean one device: a job takes what it names, not all there is.
    """
    flags = config.get("trainer") or {}
    accelerator = str(flags.get("accelerator") or "auto")
    nodes = flags.get("num_nodes") or 1
    return Request(ACCELERATORS.get(accelerator, accelerator), _count(flags.get("devices")), int(nodes))


def _count(devices: Any) -> int:
    if isinstance(devices, list):
        return len(devices)
    if isinstance(devices, str) and "," in devices:
        return len([part for part in devices.split(",") if part.strip()])
    number = yaml_scalar(devices) if isinstance(devices, str) else devices
    return number if isinstance(number, int) and number > 0 else 1


class _Walk:
    """Goes through a value along its schema; `found` gathers the paths of the classes it names."""

    def __init__(self, catalog: Catalog, *, fill: bool) -> None:
        self.catalog = catalog
        self.fill = fill
        self.found: set[str] = set()
        self.validator: Validator = config_schema(catalog, {})

    def value(self, value: Any, schema: Mapping[str, Any]) -> Any:
        if "anyOf" in schema:
            return self.value(value, self.branch(value, schema["anyOf"]))
        if is_class_schema(schema):
            return self.class_value(value, schema)
        if isinstance(value, list):
            firsts = schema.get("prefixItems", [])
            rest = schema.get("items", {})
            return [self.value(item, firsts[i] if i < len(firsts) else rest) for i, item in enumerate(value)]
        if isinstance(value, dict):
            return self.members(value, schema)
        return value

    def branch(self, value: Any, branches: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        """The alternative that a valid value keeps to: it is looked at as a whole only where its form fits several."""
        fitting = [branch for branch in branches if self.has_form(value, branch)]
        if len(fitting) > 1:
            fitting = [branch for branch in fitting if accepts(self.validator, value, branch)]
        return fitting[0] if fitting else {}

    def has_form(self, value: Any, schema: Mapping[str, Any]) -> bool:
        if is_class_schema(schema):
            spec = read_class_value(value, schema)
            return (
                spec is not None
                and spec.name is not None
                and isinstance(resolve_class(spec.name, schema, self.catalog), Entry)
            )
        own = {keyword: limit for keyword, limit in schema.items() if keyword not in _OF_WHAT_IS_INSIDE}
        return accepts(self.validator, value, own)

    def members(self, value: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
        properties = schema.get("properties", {})
        rest = schema.get("additionalProperties") or {}
        result = {key: self.value(item, properties.get(key, rest)) for key, item in value.items()}
        if self.fill:
            for key, sub in properties.items():
                if key not in result and "default" in sub:
                    result[key] = _Walk(self.catalog, fill=True).value(sub["default"], sub)
        return result

    def class_value(self, value: Any, schema: Mapping[str, Any]) -> Any:
        spec = read_class_value(value, schema)
        entry = resolve_class(spec.name, schema, self.catalog) if spec is not None and spec.name is not None else None
        if spec is None or not isinstance(entry, Entry):
            return value  # a default that no worker announces
        self.found.add(entry.class_path)
        if TYPE in schema or entry.kind is Kind.FUNCTION or (spec.is_bare and not self.fill):
            return entry.class_path
        return self.built(spec, entry, schema, value)

    def built(self, spec: ClassValue, entry: Entry, schema: Mapping[str, Any], value: Any) -> Any:
        arguments = {**spec.inherited, **spec.args} if self.fill else spec.args
        inner = self.members(arguments, arguments_schema(entry, schema))
        if not self.fill:
            named = {"class_path": entry.class_path} if spec.name_path else {}
            arguments_given = {"init_args": inner} if "init_args" in value else {}
            return {**value, **named, **arguments_given} if spec.name_path or spec.args_path else inner
        return {"class_path": entry.class_path, **({"init_args": inner} if inner or spec.args_path else {})}
