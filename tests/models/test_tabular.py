from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningDataModule, LightningModule, Trainer, seed_everything
from torch import Tensor

from models.data import Digits, Table
from models.data.tables import TableName
from models.tabular import TabularClassifier, TabularRegressor
from tests.models.runs import trainer


def predictions(run: Trainer, model: LightningModule, data: LightningDataModule) -> Tensor:
    batches: Any = run.predict(model, data)
    return torch.cat(batches)


@pytest.mark.parametrize(("model_class", "table"), [(TabularClassifier, "wine"), (TabularRegressor, "diabetes")])
def test_a_checkpoint_of_a_model_sized_by_its_data_loads_without_the_data(
    tmp_path: Path, model_class: type[LightningModule], table: TableName
) -> None:
    seed_everything(1, verbose=False)
    model, data = model_class(), Table(name=table)
    run = trainer(tmp_path, max_epochs=1)
    run.fit(model, data)
    run.save_checkpoint(tmp_path / "model.ckpt")

    loaded = model_class.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)

    x, _ = data.test_set[:]
    assert loaded.hparams["num_features"] == data.num_features
    assert torch.equal(loaded.eval()(x), model.eval()(x))


def test_a_run_resumes_from_such_a_checkpoint(tmp_path: Path) -> None:
    run = trainer(tmp_path, max_epochs=1)
    run.fit(TabularClassifier(), Table(name="wine"))
    run.save_checkpoint(tmp_path / "model.ckpt")

    resumed = trainer(tmp_path, max_epochs=2)
    resumed.fit(TabularClassifier(), Table(name="wine"), ckpt_path=tmp_path / "model.ckpt", weights_only=True)

    assert resumed.current_epoch == 2
    assert resumed.global_step == 2 * run.global_step


def test_an_optimizer_made_before_the_data_is_known_trains_the_model(tmp_path: Path) -> None:
    model = TabularClassifier(hidden_sizes=[8])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)  # as LightningCLI does for the key `optimizer`
    setattr(model, "configure_optimizers", lambda: optimizer)  # noqa: B010 - a type checker minds an assignment
    run = trainer(tmp_path, max_epochs=5)
    run.fit(model, Table(name="wine"))

    assert run.callback_metrics["val_acc"] > 0.8


def test_sizes_that_are_given_need_no_datamodule() -> None:
    model = TabularClassifier(num_features=3, num_classes=2, hidden_sizes=[])

    assert model(torch.zeros(4, 3)).shape == (4, 2)


def test_a_size_that_nobody_knows_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not know its num_features: set it in the model's init_args"):
        trainer(tmp_path, max_epochs=1).fit(TabularClassifier(), Digits())


def test_a_size_that_contradicts_the_data_is_refused(tmp_path: Path) -> None:
    model = TabularClassifier(num_features=5, num_classes=3)

    with pytest.raises(ValueError, match="num_features is 5, but Table has 13"):
        trainer(tmp_path, max_epochs=1).fit(model, Table(name="wine"))


def test_a_regressor_refuses_classes_and_says_what_to_use(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="train a TabularClassifier"):
        trainer(tmp_path, max_epochs=1).fit(TabularRegressor(), Table(name="wine"))


def test_a_classifier_refuses_numbers(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not know its num_classes"):
        trainer(tmp_path, max_epochs=1).fit(TabularClassifier(), Table(name="diabetes"))


def test_a_regressor_answers_in_the_targets_own_unit(tmp_path: Path) -> None:
    data = Table(name="diabetes")
    model = TabularRegressor(hidden_sizes=[])
    run = trainer(tmp_path, max_epochs=3)
    run.fit(model, data)
    answers = predictions(run, model, data)

    assert abs(answers.mean().item() - data.target_mean) < 0.5 * data.target_std
    assert model.target_std.item() == pytest.approx(data.target_std)


def test_both_log_the_loss_of_each_step_and_of_the_epoch_and_the_scores(tmp_path: Path) -> None:
    cases: list[tuple[LightningModule, TableName, set[str]]] = [
        (TabularClassifier(), "wine", {"acc"}),
        (TabularRegressor(), "diabetes", {"mae", "r2"}),
    ]
    for model, table, scores in cases:
        data = Table(name=table)
        run = trainer(tmp_path, max_epochs=1)
        run.fit(model, data)
        assert set(run.callback_metrics) == {"train_loss", "train_loss_epoch", "val_loss"} | {
            f"val_{s}" for s in scores
        }
        run.test(model, data, verbose=False)
        assert set(run.callback_metrics) == {"test_loss"} | {f"test_{s}" for s in scores}
