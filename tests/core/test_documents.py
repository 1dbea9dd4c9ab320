import json
import string
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from core.documents import read_document
from core.errors import BadRequest, BodyTooLarge, Invalid, UnsupportedMediaType

JSON, YAML = "application/json", "application/yaml"
LIMITS = {"max_bytes": 100_000, "max_depth": 20, "max_nodes": 1000}


def read(body: str | bytes, content_type: str | None = YAML, **limits: int) -> Any:
    return read_document(body if isinstance(body, bytes) else body.encode(), content_type, **(LIMITS | limits))


def faults(body: str | bytes, content_type: str = YAML) -> list[tuple[str, str]]:
    with pytest.raises(Invalid) as caught:
        read(body, content_type)
    return [(fault.pointer, fault.code) for fault in caught.value.faults]


def test_json_is_read_as_it_is() -> None:
    body = {"a": [1, 2.5, True, None, "NaN", {"b": {}}], "ü": "😀", "n": -(2**63)}
    assert read(json.dumps(body), JSON) == body
    assert read(json.dumps(body, ensure_ascii=False), "Application/JSON; charset=UTF-8") == body


def test_a_byte_order_mark_is_no_fault() -> None:
    assert read("\ufeff{}", JSON) == {}


@pytest.mark.parametrize(
    "text",
    [
        "a: 1e-3\nb: .5\nc: 1_000\nd: 0x1F\ne: 010\nf: 1:30\ng: +1.5e+3\nh: 1.\ni: 0b11\nj: -0\nk: 1:30.5",
        "a: 2020-01-01\nb: 12:30:45\nc: 00:12:00:00\nd: 2020-01-01 10:00:00",
        "a: yes\nb: Off\nc: TRUE\nd: ~\ne:\nf: null\ng: 'null'\nh: \"1\"\ni: !!str 5\nj: !!float 3\nk: y",
        "base: &base {lr: 1, sizes: [1, 2]}\nuse: *base\nmerged: {<<: *base, lr: 2}",
        "a: &a {x: 1}\nb: &b {x: 2, y: 3}\nc: {<<: [*a, *b], z: 4}",
        "a: |\n  two\n  lines\nb: >-\n  folded\n  text\n'c d': {}\n\"e\": []",
        "- 08\n- 1e5\n- 1.e5\n- e5\n- .e5\n- ._5\n- '='\n- \"<<\"\n- 0.1.2\n- 0o7\n- 1__0\n- 190:20:30",
        "# a comment alone decides nothing\nmodel: x # here neither\n",
        "--- \n{a: 1, b: [x, y,], c: d}\n...\n",
        "plain text",
        "5",
    ],
)
def test_yaml_means_what_it_means_to_lightningcli(text: str) -> None:
    from jsonargparse._loaders_dumpers import yaml_load

    ours, theirs = read(text), yaml_load(text)
    assert ours == theirs
    assert repr(ours) == repr(theirs) or "<<" in text, "of the same types, too"


def test_integers_as_keys_are_their_digits() -> None:
    assert read("{0: 4, 8: 2}") == {"0": 4, "8": 2}
    assert faults("{1: a, '1': b}") == [("/1", "duplicate_key")]


def test_values_that_cannot_be_taken_are_all_named_in_json() -> None:
    body = r'{"a": NaN, "b": [1e999, -Infinity], "c": 123456789012345678901, "d": "x", "d": 1, "e~/": "\ud800"}'
    assert faults(body, JSON) == [
        ("/a", "not_finite"),
        ("/b/0", "not_finite"),
        ("/b/1", "not_finite"),
        ("/c", "number_too_large"),
        ("/d", "duplicate_key"),
        ("/e~0~1", "bad_string"),
    ]
    assert faults(r'{"\u0000": 1, "n": "\u0000"}', JSON) == [("/\\x00", "bad_key"), ("/n", "bad_string")]


def test_values_that_cannot_be_taken_are_all_named_in_yaml() -> None:
    body = """
a: .nan
b: [1, 1e999]
c: 99999999999999999999
d: 1
d: 2
e: !!python/object/apply:os.system [ls]
f: !mine 3
g: "\\0"
h: !!int x
i: !!binary aGk=
j: {<<: 3}
"""
    assert faults(body) == [
        ("/a", "not_finite"),
        ("/b/1", "not_finite"),
        ("/c", "number_too_large"),
        ("/d", "duplicate_key"),
        ("/e", "unknown_tag"),
        ("/f", "unknown_tag"),
        ("/g", "bad_string"),
        ("/h", "wrong_type"),
        ("/i", "unknown_tag"),
        ("/j/<<", "wrong_type"),
    ]


def test_infinity_is_read_from_yaml_as_the_text_that_a_number_may_be() -> None:
    assert read("[.inf, -.Inf, +.INF, '.inf']") == [".inf", "-.inf", ".inf", ".inf"]


def test_of_many_values_that_cannot_be_taken_the_first_hundred_are_named() -> None:
    found = faults("[" + ".nan," * 500 + "]")
    assert found == [(f"/{index}", "not_finite") for index in range(100)] + [("/100", "too_many_faults")]


def test_a_key_that_would_swell_every_pointer_below_it_is_refused() -> None:
    key = "k" * 501
    assert faults(f'{{"{key}": [NaN]}}', JSON) == [("/?0", "bad_key")]
    assert faults(f"{key}: 1") == [("/?0", "bad_key")]
    assert read(f'{{"{key[:500]}": 1}}', JSON) == {key[:500]: 1}


@pytest.mark.parametrize("key", ["yes", "~", "1.5", "[a]", "{a: b}", "? [a]\n"])
def test_a_key_that_is_no_string_is_a_fault(key: str) -> None:
    assert [code for _, code in faults(f"{key}: 1")] == ["bad_key"]


@pytest.mark.parametrize(
    ("body", "content_type", "line", "column"),
    [
        ('{"a": 1,\n "b": }', JSON, 2, 7),
        ("[1,]", JSON, 1, 4),
        ("a: 1\nb: [", YAML, 3, 1),
        ("a: 1\n  b: 2", YAML, 2, 4),
        ("a: *nowhere", YAML, 1, 4),
        ("a: &a [*a]", YAML, 1, 8),
        ("a: &a {b: {c: *a}}", YAML, 1, 15),
        ("a: 1\n---\nb: 2", YAML, 2, 1),
        ("a: 1\nb: \x07", YAML, 2, 4),
    ],
)
def test_what_cannot_be_parsed_names_its_line_and_column(body: str, content_type: str, line: int, column: int) -> None:
    with pytest.raises(BadRequest) as caught:
        read(body, content_type)
    assert caught.value.extra == {"line": line, "column": column}
    assert f"line {line}, column {column}" in caught.value.detail


@pytest.mark.parametrize(
    "content_type", [None, "", "text/plain", "application/xml", "application/json; charset=latin-1"]
)
def test_another_content_type_is_refused_with_what_to_send(content_type: str | None) -> None:
    with pytest.raises(UnsupportedMediaType) as caught:
        read("{}", content_type)
    assert "application/yaml" in caught.value.detail or "UTF-8" in caught.value.detail


@pytest.mark.parametrize("body", [b"\xff\xfe", b'{"a": "\xc3("}', b"", b"  \n"])
def test_a_body_that_is_no_utf8_text_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        read(body, JSON)


@pytest.mark.parametrize("content_type", [JSON, YAML])
def test_a_body_past_a_limit_is_refused(content_type: str) -> None:
    with pytest.raises(BodyTooLarge, match="100000"):
        read(b"[" + b" " * 100_000 + b"]", content_type)
    with pytest.raises(BadRequest, match="deeper than 20"):
        read("[" * 21 + "]" * 21, content_type)
    assert read("[" * 20 + "]" * 20, content_type)
    with pytest.raises(BodyTooLarge, match="1000 values"):
        read("[" + "1," * 1000 + "1]", content_type)


def test_a_bomb_of_aliases_is_refused_before_it_grows() -> None:
    bomb = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{this}: &{this} [{', '.join([f'*{last}'] * 10)}]\n" for last, this in zip("abcdefgh", "bcdefghi", strict=True)
    )
    with pytest.raises(BodyTooLarge, match="aliases expanded"):
        read(bomb)


def test_an_alias_is_a_copy_and_not_the_same_object() -> None:
    value = read("a: &a {x: [1]}\nb: *a")
    value["a"]["x"].append(2)
    assert value["b"] == {"x": [1]}


def test_deep_bodies_cost_no_recursion() -> None:
    for body, content_type in (
        ("[" * 90_000, JSON),
        ("[" * 90_000, YAML),
        ("- " * 40_000, YAML),
        ("? " * 40_000, YAML),
    ):
        with pytest.raises(BadRequest):
            read(body, content_type)
    with pytest.raises(BadRequest):
        read('"' + r"\"" * 40_000, JSON)


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def _read_or_refused(body: bytes, content_type: str) -> None:
    try:
        value = read(body, content_type)
    except (BadRequest, BodyTooLarge, Invalid):
        return
    assert _is_plain(value)
    json.dumps(value, allow_nan=False).encode()


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=200), st.sampled_from([JSON, YAML]))
@example(b"%YAML 9.9\n---\na", YAML)
@example(b"!<!> x", YAML)
def test_any_bytes_are_read_or_refused(body: bytes, content_type: str) -> None:
    _read_or_refused(body, content_type)


@settings(deadline=None, max_examples=150)
@given(st.text(alphabet="ab01.:-+eE_&*!?<>|{}[],#'\"%@` \n\t~\\\u0085\ufeff" + string.digits, max_size=60))
@example("? &a\n: *a")
@example("&a *a")
@example("{<<: *a}")
@example("<<: [[1]]")
@example("a: !!null x")
@example("- 0b")
@example("- 0x_")
@example("- 1:")
def test_any_yaml_is_read_or_refused(text: str) -> None:
    _read_or_refused(text.encode(), YAML)


@settings(deadline=None, max_examples=100)
@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**63 - 1)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8),
        lambda children: (
            st.lists(children, max_size=3) | st.dictionaries(st.text("abc<=1~/ ü", max_size=5), children, max_size=3)
        ),
        max_leaves=12,
    )
)
def test_what_is_written_is_read_back(value: Any) -> None:
    assert read(json.dumps(value), JSON) == value
    text = yaml.safe_dump(value, default_style='"')
    assert read(text) == value
