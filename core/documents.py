"""Reading what a caller sent: JSON or YAML into plain values, within limits, with every fault at its place."""

import json
import re
from typing import Any

from core.errors import BadRequest, BodyTooLarge, Invalid, UnsupportedMediaType
from core.values import INTEGER_MAX, Limits, at_most, faults_in, integer, number, object_of
from core.yaml_reader import YamlReader

JSON_TYPES = frozenset({"application/json"})
YAML_TYPES = frozenset({"application/yaml", "application/x-yaml", "text/yaml"})


def read_document(
    body: bytes, content_type: str | None, *, max_bytes: int, max_depth: int, max_nodes: int
) -> Any:  # any JSON value
    """The one document in `body`, as JSON values.

    Raises `UnsupportedMediaType` for a content type other than JSON or YAML, `BodyTooLarge` past `max_bytes` or
    `max_nodes`, `BadRequest` for what cannot be read, with its line and column, and `Invalid` with every fault of
    what was read: duplicate keys, keys that are not strings, foreign tags, numbers that are not finite or too large,
    strings that no database stores.
    """
    media_type = _media_type(content_type)
    if len(body) > max_bytes:
        raise BodyTooLarge(f"The body is {len(body)} bytes; at most {max_bytes} are read.")
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadRequest(
            f"The body is not UTF-8: byte {error.start} is {body[error.start]:#04x}.", code="not_utf8"
        ) from error
    if not text.strip():
        raise BadRequest("The body is empty.", code="empty_body")
    limits = Limits(max_depth, max_nodes)
    value = _read_json(text, limits) if media_type in JSON_TYPES else YamlReader(text, limits).read()
    if faults := at_most(faults_in(value)):
        raise Invalid("The body holds values that cannot be taken.", faults)
    return value


def _media_type(content_type: str | None) -> str:
    accepted = "send application/json or application/yaml"
    if content_type is None or not content_type.strip():
        raise UnsupportedMediaType(f"The request has no Content-Type: {accepted}.")
    media_type, *parameters = [part.strip().lower() for part in content_type.split(";")]
    if media_type not in JSON_TYPES | YAML_TYPES:
        raise UnsupportedMediaType(f"Content-Type {media_type[:100]!r} is not read here: {accepted}.")
    for parameter in parameters:
        name, _, charset = parameter.partition("=")
        if name.strip() == "charset" and charset.strip(" \"'") not in {"utf-8", "utf8", "us-ascii"}:
            raise UnsupportedMediaType(f"Charset {charset[:40]!r} is not read here: send UTF-8.")
    return media_type


# Strings are skipped as a whole, possessively: no backtracking, whatever the input.
_JSON_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[\]{},]', re.DOTALL)


def _read_json(text: str, limits: Limits) -> Any:
    depth, nodes = 0, 1
    for match in _JSON_TOKEN.finditer(text):
        mark = match.group()[0]
        if mark in "[{":
            depth += 1
            nodes += 1
            limits.check_depth(depth)
        elif mark in "]}":
            depth -= 1
        elif mark == ",":
            nodes += 1
        limits.check_nodes(nodes)
    try:
        return json.loads(
            text,
            object_pairs_hook=object_of,
            parse_constant=lambda name: number(float(name), name),
            parse_float=lambda digits: number(float(digits), digits),
            parse_int=lambda digits: integer(int(digits) if len(digits) <= 20 else INTEGER_MAX + 1),
        )
    except json.JSONDecodeError as error:
        raise BadRequest(
            f"The body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}.",
            code="malformed_json",
            line=error.lineno,
            column=error.colno,
        ) from error
    except RecursionError as error:  # a limit set above what the interpreter can read
        raise BadRequest("The body is nested too deeply.", code="too_deep") from error
