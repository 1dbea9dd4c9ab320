from typing import Any

import pytest

from core.catalog import CALLBACK, DATA_MODULE, LIGHTNING_MODULE, LOOP, TRAINER, Catalog, Entry, Kind
from core.defaults import defaults, resolved
from core.loop_rules import FABRIC_FLAGS
from core.spec import check
from core.validate import validate


def arguments(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": [], "additionalProperties": False}


FLAGS = {name: {} for name in (*FABRIC_FLAGS, "max_epochs", "logger", "profiler", "enable_progress_bar")}
DATA = {"x-lightyard-class": [DATA_MODULE]}
CATALOG = Catalog(
    (
        Entry(TRAINER, Kind.TRAINER, (TRAINER,), arguments(**FLAGS), builtin=True),
        Entry(
            "mine.Loop", Kind.LOOP, ("mine.Loop", LOOP), arguments(data=DATA, epochs={"type": "integer", "default": 3})
        ),
        Entry("mine.Net", Kind.MODEL, ("mine.Net", LIGHTNING_MODULE), arguments()),
        Entry("mine.Data", Kind.DATA, ("mine.Data", DATA_MODULE), arguments()),
        Entry("mine.Listener", Kind.OBJECT, ("mine.Listener",), arguments()),
        Entry("pl.EarlyStopping", Kind.CALLBACK, ("pl.EarlyStopping", CALLBACK), arguments(), builtin=True),
    )
)


def config(trainer: dict[str, Any] | None = None, **others: Any) -> dict[str, Any]:
    model = {"class_path": "mine.Loop", "init_args": {"data": {"class_path": "mine.Data"}}}
    return {"model": model, "trainer": trainer or {}} | others


def test_a_loop_takes_its_data_and_plain_objects_as_callbacks() -> None:
    given = config({"accelerator": "cpu", "devices": 2, "strategy": "ddp", "callbacks": [{"class_path": "Listener"}]})
    assert validate(given, CATALOG) == []
    assert resolved(given, CATALOG)[1] == {"mine.Loop", "mine.Data", "mine.Listener"}
    assert resolved(given, CATALOG)[0]["trainer"]["callbacks"] == [{"class_path": "mine.Listener"}]
    assert defaults(given, CATALOG)["model"]["init_args"]["epochs"] == 3


@pytest.mark.parametrize(
    ("given", "pointer", "code", "says"),
    [
        (config({"max_epochs": 3}), "/trainer/max_epochs", "refused", "model.init_args"),
        (config({"logger": False}), "/trainer/logger", "refused", "fabric.log"),
        (config({"profiler": "simple"}), "/trainer/profiler", "refused", "torch.profiler"),
        (config({"gpus": 1}), "/trainer/gpus", "refused", "devices"),
        (config({"acelerator": "cpu"}), "/trainer/acelerator", "unknown_argument", "accelerator"),
        (config({"callbacks": ["EarlyStopping"]}), "/trainer/callbacks/0", "refused", "fabric.call"),
        (config({"callbacks": {"class_path": "mine.Net"}}), "/trainer/callbacks/class_path", "wrong_kind", "methods"),
        (config(data={"class_path": "mine.Data"}), "/data", "refused", "model.init_args"),
        (config(optimizer={"class_path": "mine.Adam"}), "/optimizer", "refused", "itself"),
        (
            {"model": {"class_path": "mine.Loop", "init_args": {"epoch": 1}}},
            "/model/init_args/epoch",
            "unknown_argument",
            "epochs",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and value.startswith("/") else "",
)
def test_what_a_loop_cannot_have_is_refused_once_with_what_to_do(
    given: dict[str, Any], pointer: str, code: str, says: str
) -> None:
    [fault] = validate(given, CATALOG)
    assert (fault.pointer, fault.code) == (pointer, code)
    assert says in fault.message


def test_a_loop_can_only_fit_and_loads_its_weights_itself() -> None:
    _, faults = check({"config": config(), "subcommand": "test"}, CATALOG)
    assert [(fault.pointer, fault.code) for fault in faults] == [("/config/model", "refused")]
    _, faults = check({"config": config(), "weights_from": "job_00000000000000000000000000/best"}, CATALOG)
    assert ("/weights_from", "refused") in [(fault.pointer, fault.code) for fault in faults]


def test_a_config_of_a_module_is_read_as_before() -> None:
    given = {"model": {"class_path": "mine.Net"}, "data": {"class_path": "mine.Data"}, "trainer": {"max_epochs": 3}}
    assert validate(given, CATALOG) == []
