"""YAML as LightningCLI reads it, so that a file means here what it means by hand.

That is jsonargparse's loader: YAML 1.1 in which `1e-3` is a number and a date stays a string. Values are built from
the parser's events, not by a constructor: no tag makes an object, and the limits hold before anything grows.
"""

import copy
import math
import re
from dataclasses import dataclass
from typing import Any

import yaml

from core.errors import BadRequest, BodyTooLarge
from core.values import INTEGER_MAX, Bad, Limits, faults_in, integer, number, object_of

_PREFIX = "tag:yaml.org,2002:"
_NULL, _BOOL, _INT, _FLOAT, _STR, _MERGE = (_PREFIX + name for name in ("null", "bool", "int", "float", "str", "merge"))
_COLLECTIONS = {_PREFIX + "map", _PREFIX + "seq"}
_TRUE = frozenset({"yes", "true", "on"})

# A number as jsonargparse's YAML loader knows it, which is YAML 1.1 and also `1e-3`.
_YAML_FLOAT = re.compile(
    r"""^(?:[-+]?(?:[0-9][0-9_]*)\.[0-9_]*(?:[eE][-+]?[0-9]+)?
    |[-+]?(?:[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)
    |\.[0-9_]+(?:[eE][-+][0-9]+)?
    |[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+\.[0-9_]*
    |[-+]?\.(?:inf|Inf|INF)
    |\.(?:nan|NaN|NAN))$""",
    re.VERBOSE,
)


class _Resolver(yaml.resolver.Resolver):
    """YAML 1.1's implicit types less timestamps, with jsonargparse's floats."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own class attribute
        first: [(tag, regexp) for tag, regexp in resolvers if tag not in {_FLOAT, _PREFIX + "timestamp"}]
        for first, resolvers in yaml.resolver.Resolver.yaml_implicit_resolvers.items()
    }


_Resolver.add_implicit_resolver(_FLOAT, _YAML_FLOAT, list("-+0123456789."))
_RESOLVER = _Resolver()


def yaml_scalar(text: str) -> Any:  # null, a boolean, a number, or the text itself
    """What `text` is as a plain YAML scalar: how LightningCLI takes a string given to a typed parameter.

    Numbers that are not finite are given as they are; what is no 64-bit integer stays a string.
    """
    try:
        value = _scalar(_resolve(text), text)
    except ValueError:
        return text
    return text if isinstance(value, Bad) else value


def yaml_collection(text: str) -> Any | None:  # a list or an object
    """The list or object that `text` writes in YAML's flow style, or nothing: short ones only."""
    if not text.lstrip().startswith(("[", "{")) or len(text) > 10_000:
        return None
    try:
        value = YamlReader(text, Limits(depth=20, nodes=2_000)).read()
    except (BadRequest, BodyTooLarge):
        return None
    return None if any(faults_in(value)) else value


def _resolve(text: str) -> str:
    if text.isascii() and text.isdecimal() and text[0] != "0":
        return _INT  # what most scalars of a long list are, told in a tenth of the time
    return str(
        _RESOLVER.resolve(  # type: ignore[no-untyped-call]  # the stubs leave it out
            yaml.ScalarNode, text, (True, False)
        )
    )


def _scalar(tag: str, text: str) -> Any:
    """The value of a scalar; raises ValueError where the text is none of the tag's."""
    if tag in {_STR, _MERGE} or tag == _PREFIX + "value":
        return text
    if tag == _NULL:
        return None
    if tag == _BOOL:
        if text.lower() not in _TRUE | {"no", "false", "off"}:
            raise ValueError(text)
        return text.lower() in _TRUE
    if tag == _INT:
        return _yaml_integer(text)
    if tag == _FLOAT:
        return _yaml_float(text)
    return Bad("unknown_tag", f"The tag {tag[:80]!r} is not read here; only plain values are.")


def _yaml_integer(text: str) -> int | Bad:
    digits = text.replace("_", "")
    if len(digits) > 80:  # int() is quadratic in the length
        return integer(INTEGER_MAX + 1)
    sign = -1 if digits.startswith("-") else 1
    digits = digits.lstrip("+-")
    if ":" in digits:
        value = 0
        for part in digits.split(":"):
            value = value * 60 + int(part)
    elif digits.startswith(("0b", "0x")):
        value = int(digits, 0)
    elif digits.startswith("0") and digits != "0":
        value = int(digits, 8)
    else:
        value = int(digits)
    return integer(sign * value)


def _yaml_float(text: str) -> float:
    digits = text.replace("_", "").lower()
    sign = -1.0 if digits.startswith("-") else 1.0
    digits = digits.lstrip("+-")
    if digits in {".inf", ".nan"}:
        return sign * float(digits[1:])
    if ":" in digits:
        value = 0.0
        for part in digits.split(":"):
            value = value * 60 + float(part)
        return sign * value
    return sign * float(digits)


@dataclass(slots=True)
class _Open:
    """A list or mapping whose end has not come yet."""

    items: list[Any]
    is_mapping: bool
    anchor: str | None
    nodes_before: int
    tag_problem: Bad | None
    merges: list[Any]
    key: Any = None
    has_key: bool = False


@dataclass(frozen=True, slots=True)
class _Key:
    """A mapping's key: its text, and its tag, which tells `<<` from `"<<"` and `1` from `"1"`."""

    text: str
    tag: str


class YamlReader:
    """Builds values from the parser's events, with an explicit stack: depth costs no recursion."""

    def __init__(self, text: str, limits: Limits) -> None:
        self.text = text
        self.limits = limits
        self.nodes = 0
        self.stack: list[_Open] = []
        self.anchors: dict[str, tuple[Any, int]] = {}
        self.root: Any = None

    def read(self) -> Any:
        """The one document's value, with a `Bad` for each value that cannot be taken.

        Raises BadRequest for what is no YAML, or more than one document, and at the limits.
        """
        documents = 0
        try:
            for event in yaml.parse(self.text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
                if isinstance(event, yaml.DocumentStartEvent):
                    documents += 1
                    if documents > 1:
                        raise self._malformed("there is more than one document: send one", event.start_mark)
                self._take(event)
        except yaml.MarkedYAMLError as error:
            raise self._malformed(error.problem or "it cannot be parsed", error.problem_mark) from error
        except yaml.reader.ReaderError as error:
            line = self.text.count("\n", 0, error.position) + 1
            column = error.position - self.text.rfind("\n", 0, error.position)
            raise BadRequest(
                f"The body is not YAML: a character that YAML does not allow at line {line}, column {column}.",
                code="malformed_yaml",
                line=line,
                column=column,
            ) from error
        except (yaml.YAMLError, RecursionError, ValueError, OverflowError) as error:
            raise BadRequest("The body is not YAML: it cannot be parsed.", code="malformed_yaml") from error
        return self.root

    def _take(self, event: yaml.Event) -> None:
        if isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            self._open(event)
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            self._close()
        elif isinstance(event, yaml.ScalarEvent):
            self._count(1)
            value = self._scalar(event)
            if event.anchor:
                self.anchors[event.anchor] = (value, 1)
            self._put(value, self._key_of(event, value))
        elif isinstance(event, yaml.AliasEvent):
            self._alias(event)

    def _count(self, nodes: int) -> None:
        self.nodes += nodes
        self.limits.check_nodes(self.nodes)

    def _open(self, event: yaml.MappingStartEvent | yaml.SequenceStartEvent) -> None:
        before = self.nodes
        self._count(1)
        self.limits.check_depth(len(self.stack) + 1)
        problem = None
        if event.tag not in {None, "!", *_COLLECTIONS}:
            problem = Bad("unknown_tag", f"The tag {str(event.tag)[:80]!r} is not read here; only plain values are.")
        if event.anchor:
            self.anchors.pop(event.anchor, None)
        self.stack.append(_Open([], isinstance(event, yaml.MappingStartEvent), event.anchor, before, problem, []))

    def _close(self) -> None:
        done = self.stack.pop()
        value: Any = done.items
        if done.is_mapping:
            value = object_of([(key.text if isinstance(key, _Key) else key, item) for key, item in done.items])
            for merged in done.merges:
                if isinstance(merged, Bad):
                    value.setdefault("<<", merged)
                else:
                    value.update({key: item for key, item in merged.items() if key not in value})
        if done.tag_problem:
            value = done.tag_problem
        if done.anchor:
            self.anchors[done.anchor] = (value, self.nodes - done.nodes_before)
        self._put(value, Bad("bad_key", "A key must be a string."))

    def _alias(self, event: yaml.AliasEvent) -> None:
        if event.anchor not in self.anchors:
            name = str(event.anchor)[:80]
            if any(open_.anchor == event.anchor for open_ in self.stack):
                raise self._malformed(f"the alias *{name} stands inside its own anchor", event.start_mark)
            raise self._malformed(f"the alias *{name} has no anchor before it", event.start_mark)
        value, nodes = self.anchors[event.anchor]
        self._count(nodes)
        self.limits.check_depth(len(self.stack) + _depth(value))
        key = _Key(value, _STR) if isinstance(value, str) else Bad("bad_key", "A key must be a string.")
        self._put(copy.deepcopy(value), key)

    def _scalar(self, event: yaml.ScalarEvent) -> Any:
        text = event.value
        tag = event.tag
        if tag is None or tag == "!":
            tag = _resolve(text) if event.implicit[0] and tag is None else _STR
        try:
            value = _scalar(tag, text)
        except (ValueError, OverflowError):
            return Bad("wrong_type", f"{text[:40]!r} is no {tag.removeprefix(_PREFIX)}.")
        if isinstance(value, float) and math.isinf(value) and text.lstrip("+-").lower() == ".inf":
            # As LightningCLI writes it into the config it saves. JSON has none: where a number goes, this text is one.
            return ".inf" if value > 0 else "-.inf"
        return number(value, text) if isinstance(value, float) else value

    def _key_of(self, event: yaml.ScalarEvent, value: Any) -> _Key | Bad:
        """The scalar as a key: strings and, as `{0: 4, 8: 2}` writes them, integers, by their digits."""
        if isinstance(value, Bad):
            return value
        if event.tag is None and event.implicit[0] and event.value == "<<":
            return _Key("<<", _MERGE)
        if isinstance(value, str):
            return _Key(value, _STR)
        if isinstance(value, int) and not isinstance(value, bool):
            return _Key(str(value), _INT)
        return Bad("bad_key", f"The key {event.value[:40]!r} is read as {_kind(value)}: put it in quotes.")

    def _put(self, value: Any, key: _Key | Bad) -> None:
        if not self.stack:
            self.root = value
            return
        top = self.stack[-1]
        if not top.is_mapping:
            top.items.append(value)
        elif not top.has_key:
            top.key, top.has_key = key, True
        else:
            top.has_key = False
            if isinstance(top.key, _Key) and top.key.tag == _MERGE:
                top.merges.extend(_merged(value))
            else:
                top.items.append((top.key, value))

    def _malformed(
        self,
        problem: str,
        mark: Any,  # a yaml.Mark of either parser, or None
    ) -> BadRequest:
        if mark is None:
            return BadRequest(f"The body is not YAML: {problem}.", code="malformed_yaml")
        line, column = mark.line + 1, mark.column + 1
        return BadRequest(
            f"The body is not YAML: {problem} at line {line}, column {column}.",
            code="malformed_yaml",
            line=line,
            column=column,
        )


def _merged(value: Any) -> list[Any]:
    """The mappings that `<<: value` brings in, or what is wrong with it."""
    values = value if isinstance(value, list) else [value]
    return [
        item if isinstance(item, dict) else Bad("wrong_type", "`<<` merges a mapping or a list of mappings.")
        for item in values
    ]


def _depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(_depth, value), default=0)
    return 0


def _kind(value: Any) -> str:
    return "null" if value is None else "a boolean" if isinstance(value, bool) else "a number"
