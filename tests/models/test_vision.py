from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningDataModule, LightningModule, Trainer, seed_everything
from torch import Tensor

from models.data import Digits
from models.vision import ImageClassifier
from tests.models.runs import trainer


def predictions(run: Trainer, model: LightningModule, data: LightningDataModule) -> Tensor:
    batches: Any = run.predict(model, data)
    return torch.cat(batches)


def trained_weights(folder: Path, num_workers: int, random_shift: int) -> dict[str, Tensor]:
    seed_everything(5, verbose=False)
    model = ImageClassifier(width=4, dropout=0.3)
    data = Digits(num_workers=num_workers, random_shift=random_shift)
    trainer(folder, max_epochs=2, limit_train_batches=4, limit_val_batches=1).fit(model, data)
    return model.state_dict()


@pytest.mark.parametrize("random_shift", [0, 2])
def test_the_same_seed_gives_the_same_weights_with_any_number_of_workers(tmp_path: Path, random_shift: int) -> None:
    first, *others = [trained_weights(tmp_path, num_workers, random_shift) for num_workers in (0, 0, 2)]

    for other in others:
        assert all(torch.equal(first[name], other[name]) for name in first)


def test_another_seed_gives_other_weights(tmp_path: Path) -> None:
    seed_everything(6, verbose=False)
    other = ImageClassifier(width=4, dropout=0.3)

    assert not torch.equal(other.state_dict()["head.3.weight"], trained_weights(tmp_path, 0, 0)["head.3.weight"])


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 4, 4), (3, 32, 32), (2, 9, 17)])
def test_it_takes_images_of_any_size(channels: int, height: int, width: int) -> None:
    model = ImageClassifier(in_channels=channels, num_classes=7, width=4)

    assert model(torch.zeros(2, channels, height, width)).shape == (2, 7)


def test_it_logs_the_loss_of_each_step_and_of_the_epoch_and_the_scores(tmp_path: Path) -> None:
    model, data = ImageClassifier(width=4), Digits()
    run = trainer(tmp_path, max_epochs=1, limit_train_batches=2)
    run.fit(model, data)
    logged = set(run.callback_metrics)
    run.test(model, data, verbose=False)

    assert logged == {"train_loss", "train_loss_epoch", "val_loss", "val_acc"}
    assert set(run.callback_metrics) == {"test_loss", "test_acc"}


def test_a_checkpoint_loads_outside_and_predicts_the_same(tmp_path: Path) -> None:
    model, data = ImageClassifier(width=4, num_classes=10), Digits()
    run = trainer(tmp_path, max_epochs=1, limit_train_batches=2)
    run.fit(model, data)
    run.save_checkpoint(tmp_path / "model.ckpt")
    before = predictions(run, model, data)

    loaded = ImageClassifier.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)

    assert loaded.hparams["width"] == 4
    assert torch.equal(predictions(trainer(tmp_path), loaded, data), before)
    assert torch.allclose(before.sum(dim=1), torch.ones(len(before)))
