import copy
import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.catalog import Catalog
from core.defaults import Request, class_paths, defaults, request, resolved
from core.validate import validate
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
    assert validate(resolved(GOOD[name], catalog), catalog) == []


def test_a_resolved_config_differs_in_class_paths_alone(catalog: Catalog) -> None:
    config = callbacks("Timer", callback("EarlyStopping", monitor="x")) | optimizer(
        "Adam", callback("ReduceLROnPlateau", monitor="x"), lr=0.1
    )
    config["trainer"] = {"callbacks": ["Timer", callback("EarlyStopping", monitor="x")]}
    assert resolved(config, catalog) == {
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
    assert resolved(implicit, catalog) == implicit


def test_class_paths_are_all_that_a_worker_must_have(catalog: Catalog) -> None:
    config = net(
        layers=["ReLU", callback("torch.nn.modules.linear.Linear", in_features=1, out_features=1)],
        activation="torch.nn.functional.gelu",
        optimizer="SGD",
        augmentation={"shift": 1},
    )
    assert class_paths(config, catalog) == {
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
        class_paths(config, catalog)
        request(config)
