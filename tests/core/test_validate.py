import copy
import difflib
import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.catalog import Catalog, Entry, Kind
from core.defaults import Request, defaults, request, resolved
from core.trainer_rules import refusals
from core.validate import CLASSES_MAX, COLLECTION_CHARACTERS_MAX, validate
from core.values import FAULTS_MAX
from tests.workers.trainer.sample_configs import (
    BAD,
    GOOD,
    HERE,
    NET,
    REFUSED,
    callback,
    callbacks,
    described,
    flags,
    net,
    optimizer,
)


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return described()


@pytest.mark.parametrize("name", GOOD)
def test_a_config_that_lightningcli_reads_has_no_fault(catalog: Catalog, name: str) -> None:
    config = copy.deepcopy(GOOD[name])
    assert validate(config, catalog) == []
    assert config == GOOD[name], "validation changes nothing"


@pytest.mark.parametrize("name", [*BAD, *REFUSED])
def test_a_fault_is_named_with_its_pointer_and_code(catalog: Catalog, name: str) -> None:
    config, pointer, code = (BAD | REFUSED)[name]
    assert [(fault.pointer, fault.code) for fault in validate(config, catalog)] == [(pointer, code)]
    [fault] = validate(config, catalog, pointer_prefix="/config")
    assert fault.pointer == f"/config{pointer}"
    assert fault.message.endswith((".", "?"))


def test_every_fault_comes_at_once_in_the_order_of_the_document(catalog: Catalog) -> None:
    config = {
        "model": {"class_path": NET, "init_args": {"lr": "x", "hiden": 3, "count": 0}},
        "trainer": {
            "max_epochs": -5,
            "gpus": 1,
            "plugins": ["x"],
            "callbacks": [
                callback("EarlyStopping", monitr="x"),
                "Nothing",
                callback("ModelCheckpoint", save_top_k=2, mode="up"),
            ],
        },
        "extra": 1,
        "data": {"class_path": f"{HERE}.Blobs", "init_args": {}},
    }
    assert [(fault.pointer, fault.code) for fault in validate(config, catalog)] == [
        ("/model/init_args/lr", "wrong_type"),
        ("/model/init_args/hiden", "unknown_argument"),
        ("/model/init_args/count", "out_of_range"),
        ("/trainer/max_epochs", "out_of_range"),
        ("/trainer/gpus", "refused"),
        ("/trainer/plugins", "refused"),
        ("/trainer/callbacks/0/init_args/monitr", "unknown_argument"),
        ("/trainer/callbacks/0/init_args/monitor", "missing_argument"),
        ("/trainer/callbacks/1", "unknown_class"),
        ("/trainer/callbacks/2/init_args/save_top_k", "requires"),
        ("/trainer/callbacks/2/init_args/mode", "not_allowed"),
        ("/extra", "unknown_field"),
        ("/data/init_args/batch_size", "missing_argument"),
    ]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (net(hiden=3), ["Did you mean hidden?"]),
        ({"model": "Nett"}, ["Did you mean", NET, "worker announces"]),
        (callbacks("lightning.pytorch.callbacks.EarlyStopping"), ["pytorch_lightning.callbacks.EarlyStopping"]),
        ({"model": f"{HERE}.Encoder"}, ["plain nn.Module", "Wrap it in a LightningModule"]),
        (net(lr="fast"), ["number", "'fast'"]),
        (net(mode="c"), ["a, b"]),
        (flags(gpus=1), ["accelerator: gpu"]),
        (flags(max_epoch=1), ["max_epochs"]),
        (flags(default_root_dir="/x"), ["the service sets it"]),
        (flags(min_epochs=5, max_epochs=3), ["/trainer/max_epochs"]),
        ({"model": {"class_path": NET, "hidden": 3}}, ["under init_args"]),
        (net(loss="L1Los"), ["torch.nn.L1Loss"]),
    ],
)
def test_a_message_says_what_to_do(catalog: Catalog, config: dict[str, Any], words: list[str]) -> None:
    [fault] = validate(config, catalog)
    for word in words:
        assert word in fault.message


def test_a_name_that_could_mean_nothing_known_gets_no_hint(catalog: Catalog) -> None:
    [fault] = validate(net(**{"hidden" * 20: 1}), catalog)
    assert "Did you mean" not in fault.message
    [fault] = validate({"model": NET + "t" * 200}, catalog)
    assert "Did you mean" not in fault.message


@pytest.mark.parametrize(
    ("config", "stopped_at"),
    [
        (flags(**{f"max_epocs{number}": 1 for number in range(4000)}), "/trainer/max_epocs100"),
        (net(sizes=["x"] * 4000), "/model/init_args/sizes/100"),
        (net(layers=[1] * 4000), "/model/init_args/layers/100"),
        (net(weights={f"k{number}": "x" for number in range(4000)}), "/model/init_args/weights/k100"),
        (net(anything=[{"class_path": "x.Y"}] * 4000), "/model/init_args/anything/100"),
        (callbacks(*["EarlyStoping"] * 4000), "/trainer/callbacks/100"),
        (flags(logger=["WandbLogger"] * 4000), "/trainer/logger/100"),
        (callbacks(*[callback("ModelCheckpoint", filename="/x")] * 1000), "/trainer/callbacks/100/init_args/filename"),
        ({"model": {"class_path": NET, **{f"hidden{number}": 1 for number in range(4000)}}}, "/model/hidden100"),
    ],
)
def test_of_many_faults_the_first_hundred_are_told_and_where_the_search_stopped(
    catalog: Catalog, config: dict[str, Any], stopped_at: str
) -> None:
    faults = validate(config, catalog)
    assert len(faults) == FAULTS_MAX + 1
    assert (faults[-1].pointer, faults[-1].code) == (stopped_at, "too_many_faults")
    assert "too_many_faults" not in {fault.code for fault in faults[:-1]}
    assert str(FAULTS_MAX) in faults[-1].message


class CountedList(list[Any]):
    """Knows how many of its items were looked at."""

    looked_at = 0

    def __getitem__(self, index: Any) -> Any:
        self.looked_at = max(self.looked_at, index + 1)
        return super().__getitem__(index)


@pytest.mark.parametrize("name", ["sizes", "layers"])
def test_nothing_is_checked_behind_the_place_where_the_search_stopped(catalog: Catalog, name: str) -> None:
    items = CountedList([{}] * 50_000)
    validate(net(**{name: items}), catalog)
    assert 0 < items.looked_at <= FAULTS_MAX + 1


def test_only_the_first_faults_are_told_what_was_meant(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[str] = []
    get_close_matches = difflib.get_close_matches

    def counted(word: str, *args: Any, **kwargs: Any) -> Any:
        compared.append(word)
        return get_close_matches(word, *args, **kwargs)

    monkeypatch.setattr(difflib, "get_close_matches", counted)
    faults = validate(flags(**{f"max_epox{number}": 1 for number in range(90)}), catalog)
    assert [fault for fault in faults if "Did you mean max_epochs?" in fault.message] == faults[:30]
    assert len(compared) == 30
    compared.clear()
    validate(callbacks(*["EarlyStoppping"] * 25), catalog)
    assert len(compared) == 2, "the same name is looked for once: among short names and among paths"


def test_a_config_that_would_take_long_to_spell_out_is_refused(catalog: Catalog) -> None:
    for config in (callbacks(*["Timer"] * (CLASSES_MAX + 1)), net(layers=["torch.nn.ReLU"] * (CLASSES_MAX + 1))):
        [fault] = validate(config, catalog, pointer_prefix="/config")
        assert (fault.pointer, fault.code) == ("/config", "out_of_range")
    assert validate(net(layers=["torch.nn.ReLU"] * (CLASSES_MAX - 1)), catalog) == []
    text = "[" + "1," * 4000 + "1]"
    [fault] = validate(net(anything=[text] * (COLLECTION_CHARACTERS_MAX // len(text) + 1)), catalog)
    assert (fault.pointer, fault.code) == ("", "out_of_range")


class UnreadList(list[Any]):
    """Breaks whoever looks at one of its items."""

    def __getitem__(self, index: Any) -> Any:
        raise AssertionError("looked at")


def test_only_values_whose_form_fits_several_types_are_checked_again_when_spelled_out(catalog: Catalog) -> None:
    sizes = UnreadList([1, 2])
    nested = net(encoder=callback("torch.nn.LayerNorm", normalized_shape=sizes))
    assert resolved(nested, catalog)[0] == net(encoder=callback("torch.nn.LayerNorm", normalized_shape=[1, 2]))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (callbacks(callback("ModelCheckpoint", filename="/x")), ["absolute path", "job's own folder"]),
        (callbacks(callback("ModelCheckpoint", filename="a/../b")), ['".."']),
        (callbacks(callback("ModelCheckpoint", filename="x" * 201)), ["201 characters"]),
        (callbacks(callback("ModelCheckpoint", dirpath="gs://x")), ["service's store", "leave `dirpath` out"]),
        ({"model": NET, "trainer": None}, ["leave `trainer` out", "null"]),
    ],
)
def test_a_refusal_says_why(catalog: Catalog, config: dict[str, Any], words: list[str]) -> None:
    [fault] = validate(config, catalog)
    for word in words:
        assert word in fault.message


@pytest.mark.parametrize("value", ["/x", "..", "a/../b", "$HOME"])
@pytest.mark.parametrize("name", ["name", "version", "sub_dir"])
def test_a_log_of_tensorboards_stays_in_the_jobs_folder(name: str, value: str) -> None:
    path = "pytorch_lightning.loggers.TensorBoardLogger"
    entry = Entry(path, Kind.LOGGER, (path, "pytorch_lightning.loggers.Logger"), {"type": "object"})
    faults = list(refusals({"logger": callback(path, **{name: value})}, Catalog((entry,)), "/trainer"))
    assert [(fault.pointer, fault.code) for fault in faults] == [(f"/trainer/logger/init_args/{name}", "refused")]


@pytest.mark.parametrize("config", [None, [], "x", 1, True])
def test_a_config_that_is_no_object_is_a_fault(catalog: Catalog, config: Any) -> None:
    assert [fault.code for fault in validate(config, catalog, pointer_prefix="/config")] == ["wrong_type"]


def test_defaults_spell_a_config_out(catalog: Catalog) -> None:
    config = callbacks("ModelCheckpoint", max_epochs=3) | {"optimizer": "AdamW"}
    filled = defaults(config, catalog)
    assert filled["model"]["class_path"] == NET
    assert filled["model"]["init_args"]["hidden"] == 8
    assert filled["model"]["init_args"]["augmentation"]["init_args"] == {"shift": 0, "flip": False}
    assert filled["model"]["init_args"]["optimizer"]["class_path"] == "torch.optim.Adam"
    assert filled["model"]["init_args"]["activation"] == "torch.relu"
    assert filled["trainer"]["max_epochs"] == 3
    assert filled["trainer"]["max_steps"] == -1
    [checkpoint] = filled["trainer"]["callbacks"]
    assert checkpoint["class_path"] == "pytorch_lightning.callbacks.ModelCheckpoint"
    assert checkpoint["init_args"]["save_top_k"] == 1
    assert filled["optimizer"]["class_path"] == "torch.optim.AdamW"
    assert filled["optimizer"]["init_args"]["betas"] == [0.9, 0.999]
    assert json.loads(json.dumps(filled, allow_nan=False)) == filled


@pytest.mark.parametrize("name", GOOD)
def test_a_config_spelled_out_is_as_valid_as_before(catalog: Catalog, name: str) -> None:
    filled = defaults(GOOD[name], catalog)
    assert validate(filled, catalog) == []
    assert defaults(filled, catalog) == filled
    assert validate(resolved(GOOD[name], catalog)[0], catalog) == []


def test_a_resolved_config_differs_in_class_paths_alone(catalog: Catalog) -> None:
    config = callbacks("Timer", callback("EarlyStopping", monitor="x")) | optimizer(
        "Adam", callback("ReduceLROnPlateau", monitor="x"), lr=0.1
    )
    config["trainer"] = {"callbacks": ["Timer", callback("EarlyStopping", monitor="x")]}
    assert resolved(config, catalog)[0] == {
        "model": {"class_path": NET},
        "trainer": {
            "callbacks": [
                "pytorch_lightning.callbacks.Timer",
                callback("pytorch_lightning.callbacks.EarlyStopping", monitor="x"),
            ]
        },
        "optimizer": callback("torch.optim.Adam", lr=0.1),
        "lr_scheduler": callback("pytorch_lightning.cli.ReduceLROnPlateau", monitor="x"),
    }
    implicit = net(optimizer={"lr": 0.1}, augmentation={"shift": 1})
    assert resolved(implicit, catalog)[0] == implicit


def test_class_paths_are_all_that_a_worker_must_have(catalog: Catalog) -> None:
    config = net(
        layers=["ReLU", callback("torch.nn.modules.linear.Linear", in_features=1, out_features=1)],
        activation="torch.nn.functional.gelu",
        optimizer="SGD",
        augmentation={"shift": 1},
    )
    assert resolved(config, catalog)[1] == {
        NET,
        f"{HERE}.Augmentation",
        "torch.nn.ReLU",
        "torch.nn.Linear",
        "torch.nn.functional.gelu",
        "torch.optim.SGD",
    }


@pytest.mark.parametrize(
    ("trainer", "expected"),
    [
        ({}, Request("auto", 1, 1)),
        (None, Request("auto", 1, 1)),
        ({"devices": "auto", "num_nodes": None}, Request("auto", 1, 1)),
        ({"devices": -1, "accelerator": "gpu"}, Request("gpu", 1, 1)),
        ({"devices": "-1", "accelerator": "cuda"}, Request("gpu", 1, 1)),
        ({"devices": 2, "accelerator": "cpu"}, Request("cpu", 2, 1)),
        ({"devices": "2"}, Request("auto", 2, 1)),
        ({"devices": [0, 3, 5]}, Request("auto", 3, 1)),
        ({"devices": "0, 1,"}, Request("auto", 2, 1)),
        ({"devices": "3,"}, Request("auto", 1, 1)),
    ],
)
def test_the_trainers_flags_are_the_resource_request(trainer: Any, expected: Request) -> None:
    assert request({"trainer": trainer}) == expected


def test_a_typical_config_is_validated_in_well_under_two_milliseconds(catalog: Catalog) -> None:
    config = GOOD["everything of a usual job"]
    validate(config, catalog)
    took = []
    for _ in range(20):
        started = time.process_time()
        validate(config, catalog)
        took.append(time.process_time() - started)
    assert min(took) < 0.002


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-2, 2) | st.sampled_from(["x", NET, "Adam", "1", "[1]"]),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(
            st.sampled_from(["class_path", "init_args", "dict_kwargs", "lr", "monitor", "callbacks", "a/b"]),
            children,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@st.composite
def _mutated(draw: st.DrawFn) -> dict[str, Any]:
    """A good config with one value anywhere put in another's place."""
    config: Any = copy.deepcopy(draw(st.sampled_from(list(GOOD.values()))))
    place = config
    for _ in range(draw(st.integers(0, 4))):
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        inner = [key for key in keys if isinstance(place[key], (dict, list)) and place[key]]
        if not inner:
            break
        place = place[draw(st.sampled_from(inner))]
    keys = list(place) if isinstance(place, dict) else list(range(len(place)))
    place[draw(st.sampled_from(keys))] = draw(_JSON)
    return config


@settings(deadline=None, max_examples=300)
@given(_mutated() | st.dictionaries(st.sampled_from(["model", "trainer", "optimizer", "lr_scheduler", "x"]), _JSON))
def test_no_config_breaks_the_validation(config: dict[str, Any]) -> None:
    catalog = described()
    faults = validate(config, catalog)
    assert all(fault.pointer.startswith("/") and fault.message for fault in faults)
    if not faults:
        filled = defaults(config, catalog)
        assert validate(filled, catalog) == []
        resolved(config, catalog)[1]
        request(config)
