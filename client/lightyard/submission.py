"""The body of a submission, from whatever the caller has: a file, its bytes, or a mapping."""

import os
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightyard.errors import SpecError
from lightyard.overrides import Overrides, apply_overrides, as_json, as_spec, load_document

# A mapping, a file's path, or the text of a file.
Source = Mapping[str, Any] | str | os.PathLike[str] | bytes


@dataclass(frozen=True, slots=True)
class Body:
    """What is sent: bytes, and their media type."""

    content: bytes
    media_type: str


def build_body(source: Source, overrides: Overrides = (), fields: Mapping[str, Any] | None = None) -> Body:
    """Make the body of a submission.

    A file to which nothing is added is sent as it is, byte for byte. `fields` are fields of the spec to set where they
    are not None; `labels` and `limits` are merged into what is there. Raises SpecError for what cannot be read or sent.
    """
    fields = {name: value for name, value in (fields or {}).items() if value is not None}
    if isinstance(source, Mapping):
        if not overrides and not fields:
            return Body(as_json(source), "application/json")
        spec = as_spec(deepcopy(dict(source)))
    else:
        text, media_type = _read(source)
        if not overrides and not fields:
            return Body(text, media_type)
        spec = as_spec(load_document(text))
    for name, value in fields.items():
        there = spec.get(name)
        spec[name] = {**there, **value} if isinstance(value, Mapping) and isinstance(there, Mapping) else value
    apply_overrides(spec, overrides)
    return Body(as_json(spec), "application/json")


def _read(source: str | os.PathLike[str] | bytes) -> tuple[bytes, str]:
    if isinstance(source, bytes):
        return source, "application/yaml"
    path = Path(source)
    try:
        return path.read_bytes(), "application/json" if path.suffix == ".json" else "application/yaml"
    except OSError as error:
        raise SpecError(f"cannot read {path}: {error.strerror}") from error
