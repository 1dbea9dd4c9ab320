"""`key=value` overrides, and reading YAML the way LightningCLI does."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from lightyard.errors import SpecError

SPEC_FIELDS = frozenset(
    {"name", "labels", "subcommand", "priority", "limits", "stop_on_nan", "when_unavailable", "weights_from"}
    | {"bundle", "webhook", "config"}
)

Document = dict[str, Any]
Overrides = Iterable[str] | Mapping[str, Any]


class LightningLoader(yaml.SafeLoader):
    """YAML as jsonargparse, and so LightningCLI, reads it: `1e-3` is a number, a date is text."""


# YAML 1.1 wants a dot and a signed exponent in a float, so PyYAML takes `1e-3` for text. This is jsonargparse's
# rule to the letter, or a file would mean one thing by hand and another here. Dates stay text there, and here.
_FLOAT = re.compile(
    r"""^(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?
    |[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+
    |\.[0-9_]+(?:[eE][-+][0-9]+)?
    |[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+\.[0-9_]*
    |[-+]?\.(?:inf|Inf|INF)
    |\.(?:nan|NaN|NAN))$""",
    re.VERBOSE,
)
LightningLoader.yaml_implicit_resolvers = {
    letter: [(tag, regexp) for tag, regexp in resolvers if tag.rpartition(":")[2] not in ("float", "timestamp")]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
LightningLoader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def load_document(text: bytes | str) -> Document:
    """Read a spec or a plain LightningCLI config from YAML or JSON; an empty one is an empty mapping.

    Raises SpecError, with line and column, when it is neither or not a mapping.
    """
    document = load_value(text)
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise SpecError(f"the file holds a {type(document).__name__}, not a mapping of a job's settings")
    return document


def as_spec(document: Mapping[str, Any]) -> Document:
    """Give a document the form of a spec: a plain LightningCLI config becomes the spec's `config`."""
    if "config" in document or (document and document.keys() <= SPEC_FIELDS):
        return dict(document)
    return {"config": dict(document)}


def apply_overrides(spec: Document, overrides: Overrides) -> None:
    """Set each `dotted.key=value` in a spec, in order: a text's value is read as YAML, a mapping's taken as it is.

    A key that begins with a field of the spec sets that (`priority=5`, `limits.max_attempts=2`, `config.trainer…`),
    any other one sets in the config. A number in a key is an index of a list; missing mappings are made.
    Raises SpecError, naming the override.
    """
    if isinstance(overrides, Mapping):
        for key, value in overrides.items():
            _assign(spec, _parts(key, f"{key}={value}"), value, f"{key}={value}")
        return
    for override in overrides:
        key, equals, text = override.partition("=")
        parts = _parts(key if equals else "", override)
        _assign(spec, parts, load_value(text), override)


def as_json(document: Mapping[str, Any]) -> bytes:
    """Write a document as the JSON that is sent. Raises SpecError for a value that JSON cannot carry."""
    try:
        return json.dumps(document, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise SpecError(f"the job's settings cannot be sent as JSON: {error}") from error


def load_value(text: bytes | str) -> Any:
    """Read YAML of any kind. Raises SpecError when it is none."""
    try:
        return yaml.load(text, Loader=LightningLoader)  # noqa: S506  LightningLoader is a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SpecError(f"not readable as YAML: {error}") from error
    except RecursionError as error:
        raise SpecError("not readable as YAML: nested too deeply") from error


def _parts(key: str, override: str) -> list[str]:
    parts = key.split(".")
    if not all(parts) or any(part != part.strip() for part in parts):
        raise SpecError(f"{override!r} is no override; one looks like trainer.max_epochs=3")
    return parts if parts[0] in SPEC_FIELDS else ["config", *parts]


def _assign(spec: Document, parts: list[str], value: Any, override: str) -> None:
    place: Any = spec
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        if isinstance(place, list):
            if not part.isdecimal() or int(part) >= len(place):
                where = ".".join(parts[:depth])
                raise SpecError(f"{override!r}: {where} is a list of {len(place)}; {part!r} is no index of it")
            index: Any = int(part)
        elif isinstance(place, dict):
            index = part
        else:
            where = ".".join(parts[:depth])
            raise SpecError(f"{override!r}: {where} is {place!r}, in which nothing can be set")
        if last:
            place[index] = value
            return
        if isinstance(place, dict) and place.get(index) is None:
            place[index] = {}
        place = place[index]
