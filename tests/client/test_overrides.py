import json
import math

import pytest

from lightyard import SpecError
from lightyard.overrides import apply_overrides, as_json, as_spec, load_document, load_value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001), ("1E5", 1e5), ("-2e+3", -2000.0), ("1.5", 1.5), ("1.", 1.0), ("3", 3), ("1_000.5", 1000.5),
        ("true", True), ("null", None), ("", None), ("[1, 2]", [1, 2]), ("'1e-3'", "1e-3"), ("e3", "e3"),
        ("1e", "1e"), ("2026-01-02", "2026-01-02"), ("adam", "adam"), (".inf", math.inf), ("-.INF", -math.inf),
        ("{class_path: EarlyStopping}", {"class_path": "EarlyStopping"}),
    ],
)  # fmt: skip
def test_a_value_is_what_lightning_cli_reads(text: str, value: object) -> None:
    read = load_value(text)

    assert read == value
    assert type(read) is type(value)


def test_plain_yaml_elsewhere_keeps_its_own_rules() -> None:
    import yaml

    assert yaml.safe_load("1e-3") == "1e-3"


@pytest.mark.parametrize(
    ("override", "spec"),
    [
        ("trainer.max_epochs=3", {"config": {"trainer": {"max_epochs": 3}}}),
        ("model.init_args.lr=1e-3", {"config": {"model": {"init_args": {"lr": 0.001}}}}),
        ("config.seed_everything=7", {"config": {"seed_everything": 7}}),
        ("name=digits", {"config": {}, "name": "digits"}),
        ("labels.team=vision", {"config": {}, "labels": {"team": "vision"}}),
        ("priority=-5", {"config": {}, "priority": -5}),
        ("limits.max_attempts=2", {"config": {}, "limits": {"max_attempts": 2}}),
        ("subcommand=test", {"config": {}, "subcommand": "test"}),
        ("ckpt_path=a=b", {"config": {"ckpt_path": "a=b"}}),
    ],
)
def test_an_override_lands_in_the_spec_or_in_its_config(override: str, spec: dict[str, object]) -> None:
    made: dict[str, object] = {"config": {}}

    apply_overrides(made, [override])

    assert made == spec


def test_a_number_in_a_key_is_an_index_of_a_list() -> None:
    spec = {"config": {"trainer": {"callbacks": [{"init_args": {"patience": 3}}, {}]}}}

    apply_overrides(spec, ["trainer.callbacks.0.init_args.patience=9", "trainer.callbacks.1=null"])

    assert spec["config"]["trainer"]["callbacks"] == [{"init_args": {"patience": 9}}, None]


def test_a_mapping_of_overrides_keeps_its_values() -> None:
    spec: dict[str, object] = {"config": None}

    apply_overrides(spec, {"trainer.max_epochs": 3, "data.name": "1e-3"})

    assert spec == {"config": {"trainer": {"max_epochs": 3}, "data": {"name": "1e-3"}}}


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("trainer.max_epochs", "looks like"),
        ("=3", "looks like"),
        ("trainer..max_epochs=3", "looks like"),
        ("trainer .x=3", "looks like"),
        ("seed_everything.x=1", "seed_everything is 4"),
        ("trainer.callbacks.2=1", "list of 1"),
        ("trainer.callbacks.last=1", "list of 1"),
        ("name={", "not readable as YAML"),
    ],
)
def test_an_override_that_cannot_be_applied_is_named(override: str, words: str) -> None:
    spec = {"config": {"seed_everything": 4, "trainer": {"callbacks": [1]}}}

    with pytest.raises(SpecError, match=words.replace("[", r"\[")):
        apply_overrides(spec, [override])


@pytest.mark.parametrize(
    ("document", "spec"),
    [
        ({"model": 1, "trainer": 2}, {"config": {"model": 1, "trainer": 2}}),
        ({"config": {"model": 1}, "name": "a"}, {"config": {"model": 1}, "name": "a"}),
        ({"name": "a"}, {"name": "a"}),
        ({}, {"config": {}}),
    ],
)
def test_a_plain_lightning_config_becomes_the_config_of_a_spec(document: dict, spec: dict) -> None:
    assert as_spec(document) == spec


@pytest.mark.parametrize("text", [b"[1, 2]", b"a: [", b"\xff\xfe\xfa", b"a: !!python/name:os.system", b"[" * 2000])
def test_a_file_that_is_no_mapping_in_yaml_is_refused(text: bytes) -> None:
    with pytest.raises(SpecError):
        load_document(text)


@pytest.mark.parametrize("value", [math.nan, math.inf, {1, 2}, b"bytes"])
def test_what_json_cannot_carry_is_refused_here(value: object) -> None:
    with pytest.raises(SpecError, match="cannot be sent as JSON"):
        as_json({"config": {"x": value}})


def test_an_alias_that_holds_itself_is_refused() -> None:
    with pytest.raises(SpecError):
        as_json(load_document("a: &a [*a]"))


def test_a_float_reaches_the_wire_as_a_number() -> None:
    spec = as_spec(load_document("model: {init_args: {lr: 1e-3}}"))

    assert json.loads(as_json(spec)) == {"config": {"model": {"init_args": {"lr": 0.001}}}}
