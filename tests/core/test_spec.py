from typing import Any

import pytest

from core.errors import Invalid
from core.ids import new_id
from core.spec import JobSpec, Limits, check, read_fields, read_spec
from core.values import FAULTS_MAX
from tests.workers.trainer.sample_configs import GOOD, NET, described

CONFIG = GOOD["everything of a usual job"]
JOB = new_id("job")


def faults(document: Any) -> list[tuple[str, str]]:
    with pytest.raises(Invalid) as caught:
        read_spec(document)
    return [(fault.pointer, fault.code) for fault in caught.value.faults]


def test_a_spec_is_read_with_its_fields() -> None:
    spec = read_spec(
        {
            "name": "digits-cnn",
            "labels": {"team": "vision"},
            "subcommand": "fit",
            "priority": -3,
            "limits": {"max_seconds": 86400, "max_attempts": 5, "max_memory_bytes": None, "retry_oom": True},
            "bundle": None,
            "config": CONFIG,
        }
    )
    assert spec == JobSpec(
        config=CONFIG,
        config_pointer="/config",
        name="digits-cnn",
        labels={"team": "vision"},
        priority=-3,
        limits=Limits(86400, 5, retry_oom=True),
    )


def test_what_is_left_out_has_its_default() -> None:
    assert read_spec({"config": CONFIG}) == JobSpec(config=CONFIG, config_pointer="/config")
    assert read_spec({"config": CONFIG, "name": None, "labels": None, "limits": None}).labels == {}


@pytest.mark.parametrize(
    ("document", "pointer"),
    [
        (CONFIG, ""),
        ({"config": CONFIG}, "/config"),
        ({"fit": CONFIG}, "/fit"),
        ({"subcommand": "fit", "fit": CONFIG, "test": None}, "/fit"),
        ({"config": {"fit": CONFIG}}, "/config/fit"),
    ],
)
def test_a_lightningcli_config_is_taken_in_each_form_that_people_have(document: dict[str, Any], pointer: str) -> None:
    spec, found = check(document, described())
    assert found == []
    assert spec is not None
    assert spec.config == CONFIG
    assert spec.config_pointer == pointer


@pytest.mark.parametrize(
    ("document", "pointer"),
    [
        (lambda config: config, ""),
        (lambda config: {"config": config}, "/config"),
        (lambda config: {"fit": config}, "/fit"),
        (lambda config: {"config": {"fit": config}}, "/config/fit"),
    ],
)
def test_pointers_are_into_the_body_that_was_sent(document: Any, pointer: str) -> None:
    config = {"model": {"class_path": NET, "init_args": {"lrr": 1}}}
    spec, found = check(document(config), described())
    assert spec is None
    assert [fault.pointer for fault in found] == [f"{pointer}/model/init_args/lrr"]


def test_faults_of_the_spec_and_of_its_config_come_together() -> None:
    spec, found = check({"priority": 101, "config": {"model": NET, "trainer": {"gpus": 1}}}, described())
    assert spec is None
    assert [(fault.pointer, fault.code) for fault in found] == [
        ("/priority", "out_of_range"),
        ("/config/trainer/gpus", "refused"),
    ]


@pytest.mark.parametrize(
    ("field", "value", "pointer", "code"),
    [
        ("name", "", "/name", "out_of_range"),
        ("name", "x" * 201, "/name", "out_of_range"),
        ("name", 5, "/name", "wrong_type"),
        ("name", "a\nb", "/name", "not_allowed"),
        ("name", "a\u202eb", "/name", "not_allowed"),
        ("name", "\u2066a", "/name", "not_allowed"),
        ("name", "a\x9b", "/name", "not_allowed"),
        ("labels", {"k": "\u2069"}, "/labels/k", "not_allowed"),
        ("labels", [], "/labels", "wrong_type"),
        ("labels", {"k": 1}, "/labels/k", "wrong_type"),
        ("labels", {"k": "v" * 256}, "/labels/k", "out_of_range"),
        ("labels", {"k" * 64: "v"}, "/labels/" + "k" * 64, "out_of_range"),
        ("labels", {f"k{n}": "v" for n in range(65)}, "/labels", "out_of_range"),
        ("subcommand", None, "/subcommand", "not_allowed"),
        ("weights_from", "/home/me/last.ckpt", "/weights_from", "refused"),
        ("subcommand", "train", "/subcommand", "not_allowed"),
        ("priority", 101, "/priority", "out_of_range"),
        ("priority", -101, "/priority", "out_of_range"),
        ("priority", True, "/priority", "wrong_type"),
        ("priority", 1.0, "/priority", "wrong_type"),
        ("priority", "1", "/priority", "wrong_type"),
        ("limits", 5, "/limits", "wrong_type"),
        ("limits", {"max_seconds": 0}, "/limits/max_seconds", "out_of_range"),
        ("limits", {"max_seconds": True}, "/limits/max_seconds", "wrong_type"),
        ("limits", {"max_attempts": 101}, "/limits/max_attempts", "out_of_range"),
        ("limits", {"max_attempts": 0}, "/limits/max_attempts", "out_of_range"),
        ("limits", {"max_memory_bytes": -1}, "/limits/max_memory_bytes", "out_of_range"),
        ("limits", {"retry_oom": 1}, "/limits/retry_oom", "wrong_type"),
        ("limits", {"max_second": 1}, "/limits/max_second", "unknown_field"),
        ("bundle", "bun_1", "/bundle", "not_yet_supported"),
        ("webhook", {"url": "x"}, "/webhook", "not_yet_supported"),
        ("priorty", 1, "/priorty", "unknown_field"),
        ("trainer", {}, "/trainer", "unknown_field"),
        ("a/b", 1, "/a~1b", "unknown_field"),
    ],
)
def test_a_field_out_of_its_bounds_is_named(field: str, value: Any, pointer: str, code: str) -> None:
    assert faults({"config": CONFIG, field: value}) == [(pointer, code)]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "Must have at least 1 character, got 0."),
        ("x" * 201, "Must have at most 200 characters, got 201."),
        ("a\nb", "Expected text without control characters, got the string 'a\\nb'."),
    ],
)
def test_what_is_wrong_with_a_name_is_said(name: str, message: str) -> None:
    with pytest.raises(Invalid) as caught:
        read_spec({"config": CONFIG, "name": name})
    assert [fault.message for fault in caught.value.faults] == [message]


@pytest.mark.parametrize(
    "document",
    [
        {"config": CONFIG} | {f"prioritx{number}": 1 for number in range(4000)},
        {"fit": CONFIG} | {f"prioritx{number}": 1 for number in range(4000)},
        {"config": {"model": {"class_path": NET, "init_args": {"sizes": ["x"] * 4000}}}, "prioritx": 1},
    ],
)
def test_of_many_faults_the_first_hundred_are_told(document: dict[str, Any]) -> None:
    spec, found = check(document, described())
    assert spec is None
    assert len(found) == FAULTS_MAX + 1
    assert [fault.code for fault in found].index("too_many_faults") == FAULTS_MAX


def test_labels_past_their_number_are_not_looked_at() -> None:
    assert faults({"config": CONFIG, "labels": {f"k{number}": number for number in range(65)}}) == [
        ("/labels", "out_of_range")
    ]


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (None, [("", "wrong_type")]),
        ([], [("", "wrong_type")]),
        ({}, [("/config", "missing_field")]),
        ({"name": "x", "nam": 1}, [("/nam", "unknown_field"), ("/config", "missing_field")]),
        ({"config": None}, [("/config", "wrong_type")]),
        ({"config": []}, [("/config", "wrong_type")]),
        ({"name": "x", "model": NET}, [("/name", "unknown_field")]),
        ({"fit": CONFIG, "test": CONFIG}, [("/subcommand", "missing_field")]),
        ({"fit": CONFIG, "test": 5}, [("/test", "wrong_type")]),
        ({"fit": CONFIG, "name": "x"}, [("/name", "unknown_field")]),
        ({"fit": CONFIG, "subcommand": "predict"}, [("/predict", "missing_field")]),
        ({"fit": CONFIG, "subcommand": "train"}, [("/subcommand", "not_allowed")]),
        ({"subcommand": "fit", "config": {"test": CONFIG, "subcommand": "test"}}, [("/config/subcommand", "excludes")]),
    ],
)
def test_a_body_of_another_form_is_refused(document: Any, expected: list[tuple[str, str]]) -> None:
    assert faults(document) == expected


@pytest.mark.parametrize(
    ("document", "subcommand", "pointer"),
    [
        ({"config": CONFIG, "subcommand": "test"}, "test", "/config"),
        ({"validate": CONFIG}, "validate", "/validate"),
        ({"config": {"predict": CONFIG}}, "predict", "/config/predict"),
        ({"fit": CONFIG, "test": {**CONFIG, "verbose": False}, "subcommand": "test"}, "test", "/test"),
        ({"config": {"fit": CONFIG, "test": CONFIG}, "subcommand": "test"}, "test", "/config/test"),
    ],
)
def test_each_subcommand_is_read_in_every_form(document: dict[str, Any], subcommand: str, pointer: str) -> None:
    spec, found = check(document, described())
    assert found == []
    assert spec is not None
    assert (spec.subcommand, spec.config_pointer) == (subcommand, pointer)


@pytest.mark.parametrize(
    ("keys", "subcommand", "expected"),
    [
        ({"verbose": True}, "fit", [("/config/verbose", "unknown_field")]),
        ({"verbose": None}, "test", [("/config/verbose", "wrong_type")]),
        ({"return_predictions": None, "weights_only": True}, "predict", []),
        ({"return_predictions": False}, "validate", [("/config/return_predictions", "unknown_field")]),
        ({"ckpt_path": "https://elsewhere/x.ckpt"}, "test", [("/config/ckpt_path", "refused")]),
        ({"ckpt_path": "hpc"}, "fit", [("/config/ckpt_path", "refused")]),
        ({"ckpt_path": "job_1/best"}, "fit", [("/config/ckpt_path", "refused")]),
        ({"ckpt_path": 7}, "fit", [("/config/ckpt_path", "wrong_type")]),
        ({"ckpt_path": f"{JOB}/best"}, "fit", []),
    ],
)
def test_the_keys_of_a_subcommand_are_those_of_lightningcli(
    keys: dict[str, Any], subcommand: str, expected: list[tuple[str, str]]
) -> None:
    _, found = check({"subcommand": subcommand, "config": CONFIG | keys}, described())
    assert [(fault.pointer, fault.code) for fault in found] == expected


def test_weights_are_for_fitting_and_exclude_a_checkpoint_to_go_on_from() -> None:
    named = {"weights_from": f"{JOB}/last"}
    assert faults({"config": CONFIG, "subcommand": "test"} | named) == [("/weights_from", "refused")]
    assert faults({"config": CONFIG | {"ckpt_path": "last"}} | named) == [("/weights_from", "excludes")]


def test_a_hint_names_the_field_that_was_meant() -> None:
    with pytest.raises(Invalid) as caught:
        read_spec({"config": CONFIG, "priorty": 1})
    assert "Did you mean priority?" in caught.value.faults[0].message


def test_the_fields_of_a_change_are_checked_as_those_of_a_spec() -> None:
    allowed = ("name", "labels", "priority", "limits")
    values, found = read_fields({"priority": 7, "limits": {"max_attempts": 2, "retry_oom": False}}, allowed)
    assert values == {"priority": 7, "limits": Limits(max_attempts=2, retry_oom=False)}
    assert found == []
    _, found = read_fields({"priority": 700, "config": {}}, allowed)
    assert [(fault.pointer, fault.code) for fault in found] == [
        ("/priority", "out_of_range"),
        ("/config", "unknown_field"),
    ]
