import copy
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.cli import LightningCLI

from core.catalog import CALLABLE, LIGHTNING_MODULE, Catalog, Entry, Kind
from core.defaults import defaults
from core.documents import read_document
from core.validate import validate
from tests.workers.trainer.sample_configs import BAD, GOOD, HERE, NET, described
from workers.trainer.describe import describe


class ParserOnly(LightningCLI):
    """LightningCLI that reads a config and builds nothing."""

    def instantiate_classes(self) -> None:
        pass


@pytest.fixture(scope="module")
def parser() -> Any:
    cli = ParserOnly(args={"model": NET}, run=False, save_config_callback=None, parser_kwargs={"exit_on_error": False})
    return cli.parser


@pytest.fixture(autouse=True)
def _no_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py"])


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return described()


def parse(parser: Any, config: dict[str, Any]) -> None:
    """As LightningCLI reads it; the subcommand's keys are not the parser's."""
    config = {key: value for key, value in config.items() if key not in {"ckpt_path", "weights_only"}}
    parser.parse_object(copy.deepcopy(config))


def entry(catalog: Catalog, class_path: str) -> Entry:
    found = catalog.get(class_path)
    assert found is not None
    return found


def schema(catalog: Catalog, name: str, class_path: str = NET) -> dict[str, Any]:
    found: dict[str, Any] = dict(entry(catalog, class_path).schema["properties"][name])
    found.pop("description", None)
    return found


@pytest.mark.parametrize("name", GOOD)
def test_what_is_announced_as_valid_lightningcli_reads_with_its_defaults_filled_in(
    parser: Any, catalog: Catalog, name: str
) -> None:
    parse(parser, defaults(GOOD[name], catalog))


@pytest.mark.parametrize("name", GOOD)
def test_what_is_announced_as_valid_lightningcli_reads_and_what_it_saves_can_be_submitted_again(
    parser: Any, catalog: Catalog, name: str
) -> None:
    config = {key: value for key, value in GOOD[name].items() if key not in {"ckpt_path", "weights_only"}}
    # As the trainer leaves it as an artifact (workers.trainer.build).
    text = parser.dump(parser.parse_object(copy.deepcopy(config)), skip_none=False, skip_check=True)
    document = read_document(text.encode(), "application/yaml", max_bytes=2**20, max_depth=64, max_nodes=10_000)
    assert validate(document, catalog) == []
    parse(parser, document)


@pytest.mark.parametrize("name", BAD)
def test_what_is_announced_as_a_fault_lightningcli_refuses(parser: Any, name: str) -> None:
    with pytest.raises(Exception, match=r".+"):
        parse(parser, BAD[name][0])


def test_every_schema_is_a_json_schema_and_its_defaults_keep_to_it(catalog: Catalog) -> None:
    for found in catalog.entries:
        jsonschema.Draft202012Validator.check_schema(found.schema)
    for found in catalog.of_kind(Kind.OPTIMIZER):
        config = {"model": NET, "optimizer": {"class_path": found.class_path}}
        assert validate(defaults(config, catalog), catalog) == []
    for found in catalog.of_kind(Kind.CALLBACK):
        if not found.schema["required"]:
            config = {"model": NET, "trainer": {"callbacks": [found.class_path]}}
            assert validate(defaults(config, catalog), catalog) == []


def test_types_become_schemas(catalog: Catalog) -> None:
    module = {"x-lightyard-class": ["torch.nn.Module"], "x-lightyard-implicit": "torch.nn.Module"}
    null = {"type": "null"}
    assert {name: schema(catalog, name) for name in entry(catalog, NET).schema["properties"] if name != "dtype"} == {
        "hidden": {"type": ["integer", "null"], "default": 8},
        "lr": {"type": ["number", "null"], "default": 0.001},
        "name": {"type": ["string", "null"], "default": "net"},
        "flag": {"type": ["boolean", "null"], "default": False},
        "colour": {"enum": ["RED", "BLUE", None], "default": "RED"},
        "mode": {"enum": ["a", "b", None], "default": "a"},
        "count": {"type": ["integer", "null"], "exclusiveMinimum": 0, "default": 3},
        "share": {"type": ["number", "null"], "minimum": 0, "maximum": 1, "default": 0.5},
        "bounded": {"type": ["integer", "null"], "minimum": 1, "maximum": 9, "x-lightyard-lax": True, "default": 2},
        "sizes": {"type": ["array", "null"], "items": {"type": "integer"}, "default": [1, 2]},
        "pair": {
            "type": ["array", "null"],
            "prefixItems": [{"type": "integer"}, {"type": "number"}],
            "minItems": 2,
            "maxItems": 2,
            "default": [1, 2.0],
        },
        "weights": {"anyOf": [{"type": "object", "additionalProperties": {"type": "number"}}, null], "default": None},
        "by_epoch": {"anyOf": [{"type": "object", "additionalProperties": {"type": "integer"}}, null], "default": None},
        "path": {"type": ["string", "null"], "default": None},
        "every": {
            "anyOf": [
                {
                    "type": "string",
                    "pattern": r"^([-\d]+ days?, )?\d+:\d+:\d[.\d]*",
                    "x-lightyard-expected": 'a duration as "h:m:s" or "d days, h:m:s"',
                },
                null,
            ],
            "default": None,
        },
        "anything": {"x-lightyard-any": True, "default": None},
        "number_or_name": {"type": ["integer", "string", "null"], "default": 1},
        "augmentation": {
            "anyOf": [
                {
                    "x-lightyard-class": [f"{HERE}.Augmentation"],
                    "x-lightyard-implicit": f"{HERE}.Augmentation",
                    "default": {"shift": 0, "flip": False},
                },
                null,
            ],
            "default": {"shift": 0, "flip": False},
        },
        "encoder": {"anyOf": [module, null], "default": None},
        "layers": {"anyOf": [{"type": "array", "items": module}, null], "default": None},
        "loss": {"anyOf": [{"x-lightyard-type": ["torch.nn.Module"]}, null], "default": "torch.nn.MSELoss"},
        "activation": {
            "anyOf": [{"x-lightyard-callable": {"returns": [], "positional": 0}, "default": "torch.relu"}, null],
            "default": "torch.relu",
        },
        "optimizer": {
            "anyOf": [
                {
                    "x-lightyard-callable": {"returns": ["torch.optim.Optimizer"], "positional": 1},
                    "default": "torch.optim.Adam",
                },
                null,
            ],
            "default": "torch.optim.Adam",
        },
        "scheduler": {
            "anyOf": [
                {
                    "x-lightyard-callable": {
                        "returns": [
                            "torch.optim.lr_scheduler.LRScheduler",
                            "pytorch_lightning.cli.ReduceLROnPlateau",
                        ],
                        "positional": 1,
                    }
                },
                null,
            ],
            "default": None,
        },
        "infinite": {"type": ["number", "null"], "default": ".inf"},
        "tensor": {"anyOf": [{"x-lightyard-refused": "a torch.Tensor is made in code"}, null], "default": None},
        "trainer_object": {
            "anyOf": [{"x-lightyard-refused": "the Trainer is made by the service"}, null],
            "default": None,
        },
    }
    assert "torch.bfloat16" in schema(catalog, "dtype")["enum"]


def test_a_class_is_announced_with_what_it_is(catalog: Catalog) -> None:
    net = entry(catalog, NET)
    assert net.kind is Kind.MODEL
    assert net.bases[:2] == (NET, LIGHTNING_MODULE)
    assert "torch.nn.Module" in net.bases
    assert CALLABLE in net.bases
    assert not net.builtin
    assert net.doc.startswith("A model with one parameter of each kind.\n\nArgs:")
    assert net.schema["properties"]["hidden"]["description"] == "Width of the hidden layer."
    kinds = {found.name: found.kind for found in catalog.entries if not found.builtin}
    assert kinds == {
        "Augmentation": "object",
        "Blobs": "data",
        "Child": "model",
        "Encoder": "module",
        "Net": "model",
        "Note": "callback",
        "double": "function",
    }


def test_arguments_are_followed_through_kwargs(catalog: Catalog) -> None:
    child = entry(catalog, f"{HERE}.Child")
    assert child.schema["required"] == ["extra"]
    assert {"extra", "hidden", "lr"} <= child.schema["properties"].keys()
    assert entry(catalog, f"{HERE}.Blobs").schema["required"] == ["batch_size"]
    assert child.schema["additionalProperties"] is False


def test_what_comes_with_lightning_and_torch_is_announced(catalog: Catalog) -> None:
    for name in ("EarlyStopping", "ModelCheckpoint", "LearningRateMonitor", "StochasticWeightAveraging", "Timer"):
        assert entry(catalog, f"pytorch_lightning.callbacks.{name}").kind is Kind.CALLBACK
    for name in ("Adam", "AdamW", "SGD", "LBFGS"):
        found = entry(catalog, f"torch.optim.{name}")
        assert found.kind is Kind.OPTIMIZER
        assert found.positional[0] == "params"
        assert "params" not in found.schema["properties"]
        assert found.schema["properties"]["lr"]["minimum"] == 0
    assert entry(catalog, "torch.optim.adamw.AdamW") is entry(catalog, "torch.optim.AdamW")
    plateau = entry(catalog, "pytorch_lightning.cli.ReduceLROnPlateau")
    assert plateau.kind is Kind.LR_SCHEDULER
    assert plateau.schema["required"] == ["monitor"]
    assert entry(catalog, "torch.nn.Linear").kind is Kind.MODULE
    assert entry(catalog, "pytorch_lightning.profilers.SimpleProfiler").kind is Kind.PROFILER
    assert entry(catalog, "pytorch_lightning.loggers.CSVLogger").kind is Kind.LOGGER
    assert entry(catalog, "torch.nn.functional.gelu").kind is Kind.FUNCTION
    for base in ("pytorch_lightning.Callback", "torch.nn.Module", "torch.optim.Optimizer"):
        assert catalog.get(base) is None, "a base is nothing to make"


def test_every_flag_of_the_trainer_is_announced_with_its_default(catalog: Catalog) -> None:
    import inspect

    flags = inspect.signature(pl.Trainer).parameters
    announced = catalog.trainer["properties"]
    assert announced.keys() == flags.keys()
    for name, flag in flags.items():
        assert announced[name]["default"] == flag.default
    assert validate(defaults({"model": NET}, catalog), catalog) == []


def test_the_bounds_name_only_what_exists(catalog: Catalog) -> None:
    import yaml

    text = Path(describe.__globals__["__file__"]).with_name("bounds.yaml").read_text("utf-8")
    for class_path, parameters in yaml.safe_load(text).items():
        heirs = [found for found in catalog.entries if class_path in found.bases]
        assert heirs, f"{class_path} is in the bounds and in no class's bases"
        known = {name for heir in heirs for name in heir.schema["properties"]}
        assert parameters.keys() <= known, class_path


@pytest.mark.parametrize(
    ("config", "make"),
    [
        ({"lr": -1.0}, lambda args: torch.optim.AdamW([torch.zeros(1, requires_grad=True)], **args)),
        ({"betas": (0.9, 1.0)}, lambda args: torch.optim.Adam([torch.zeros(1, requires_grad=True)], **args)),
        ({"momentum": -1.0}, lambda args: torch.optim.SGD([torch.zeros(1, requires_grad=True)], **args)),
        ({"mode": "least", "monitor": "x"}, lambda args: pl.callbacks.EarlyStopping(**args)),
        ({"save_top_k": -2}, lambda args: pl.callbacks.ModelCheckpoint(**args)),
        ({"save_top_k": 3}, lambda args: pl.callbacks.ModelCheckpoint(**args)),
        ({"every_n_epochs": 1, "every_n_train_steps": 1}, lambda args: pl.callbacks.ModelCheckpoint(**args)),
        ({"max_epochs": -2}, lambda args: trainer(**args)),
        ({"limit_train_batches": 1.5}, lambda args: trainer(**args)),
        ({"devices": 0}, lambda args: trainer(**args)),
        ({"devices": [0]}, lambda args: trainer(**args)),
        ({"max_time": "1:00:00"}, lambda args: trainer(**args)),
        ({"barebones": True, "logger": True}, lambda args: trainer(**args)),
        ({"val_check_interval": 0.5, "check_val_every_n_epoch": None}, lambda args: trainer(**args)),
        (
            {"callbacks": [pl.callbacks.ModelCheckpoint()], "enable_checkpointing": False},
            lambda args: trainer(**args),
        ),
        ({"callbacks": [pl.callbacks.ModelCheckpoint(), pl.callbacks.ModelCheckpoint()]}, lambda args: trainer(**args)),
        (
            {"callbacks": [pl.callbacks.TQDMProgressBar(), pl.callbacks.RichProgressBar()]},
            lambda args: trainer(**args),
        ),
    ],
)
def test_what_the_bounds_and_rules_refuse_lightning_or_torch_refuses(config: dict[str, Any], make: Any) -> None:
    with pytest.raises(Exception, match=r".+"):
        make(config)


def trainer(**flags: Any) -> pl.Trainer:
    return pl.Trainer(accelerator="cpu", **flags)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    folder = tmp_path / "users_package"
    (folder / "deep").mkdir(parents=True)
    (folder / "__init__.py").write_text("from users_package.fine import Fine as Fine\n")
    (folder / "fine.py").write_text(
        "import os\nfrom torch.nn import Linear\nfrom pytorch_lightning import LightningModule\n"
        "class Fine(LightningModule):\n    def __init__(self, width: 'int' = 1, nowhere: 'Missing' = None): ...\n"
        "class _Hidden(LightningModule): ...\n"
    )
    (folder / "broken.py").write_text("import a_package_that_is_not_installed\n")
    (folder / "exits.py").write_text("import sys\nsys.exit(1)\n")
    (folder / "__main__.py").write_text("raise RuntimeError('a program was run')\n")
    (folder / "deep" / "__init__.py").write_text("")
    (folder / "deep" / "data.py").write_text(
        "from pytorch_lightning import LightningDataModule\nclass Deep(LightningDataModule): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "users_package"
    for name in [name for name in sys.modules if name.partition(".")[0] == "users_package"]:
        del sys.modules[name]


def test_a_package_is_described_to_its_depth_and_what_fails_to_import_is_a_fault(package: str) -> None:
    catalog = describe([package, "nowhere_at_all"])
    assert [found.class_path for found in catalog.entries if not found.builtin] == [
        "users_package.Fine",
        "users_package.deep.data.Deep",
    ]
    fine = entry(catalog, "users_package.fine.Fine")
    assert fine is entry(catalog, "users_package.Fine")
    assert schema(catalog, "nowhere", "users_package.Fine") == {"x-lightyard-any": True, "default": None}
    assert [(fault.pointer, fault.code) for fault in catalog.faults] == [
        ("users_package.broken", "import_failed"),
        ("users_package.exits", "import_failed"),
        ("nowhere_at_all", "import_failed"),
    ]
    assert "a_package_that_is_not_installed" in catalog.faults[0].message
    assert Catalog.from_json(json.dumps(catalog.to_json())).digest == catalog.digest
