import pytest
from jsonargparse import ArgumentError, ArgumentParser
from pydantic import TypeAdapter
from pytorch_lightning import LightningModule

from models.bounds import Fraction, Positive


def parser() -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningModule, "model")
    return parser


@pytest.mark.parametrize(
    ("argument", "value"), [("lr", 0), ("lr", float("nan")), ("width", 0), ("dropout", 1.0), ("width", 2.5)]
)
def test_a_value_out_of_bounds_is_refused_by_name(argument: str, value: float) -> None:
    config = {"class_path": "models.vision.ImageClassifier", "init_args": {argument: value}}

    with pytest.raises(ArgumentError, match=argument):
        parser().parse_object({"model": config})


def test_a_value_at_a_bound_that_belongs_is_taken() -> None:
    config = {"class_path": "models.vision.ImageClassifier", "init_args": {"dropout": 0, "width": 1}}

    assert parser().parse_object({"model": config}).model.init_args.width == 1


def test_a_json_schema_shows_the_bounds() -> None:
    assert TypeAdapter(Positive).json_schema() == {"exclusiveMinimum": 0, "type": "number"}
    assert TypeAdapter(Fraction).json_schema() == {"exclusiveMaximum": 1, "exclusiveMinimum": 0, "type": "number"}
