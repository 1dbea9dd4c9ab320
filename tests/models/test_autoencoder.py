"""The autoencoder: what it learns in ten epochs of `examples/autoencoder.yaml`, against principal components."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from sklearn.decomposition import PCA

from models.autoencoder import Autoencoder
from models.data import Digits
from tests.models.album import Album
from tests.models.runs import command_line, trainer

Trained = tuple[Trainer, Autoencoder, Digits]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The example after ten epochs, some three seconds."""
    cli = command_line("autoencoder.yaml", tmp_path_factory.mktemp("autoencoder"), max_epochs=10)
    cli.trainer.loggers = [Album()]
    cli.trainer.fit(cli.model, cli.datamodule)
    return cli.trainer, cli.model.eval(), cli.datamodule


def test_eight_numbers_keep_more_of_a_digit_than_eight_principal_components(trained: Trained, tmp_path: Path) -> None:
    _, model, data = trained
    x, again = (data.train_set.tensors[0].flatten(1).numpy(), data.test_set.tensors[0].flatten(1).numpy())
    components = PCA(8).fit(x)
    left = ((components.inverse_transform(components.transform(again)) - again) ** 2).mean()

    [scores] = trainer(tmp_path).test(model, data, verbose=False)

    assert left == pytest.approx(0.0249, abs=0.0005)
    assert scores["test_loss"] < 0.018


def test_predictions_are_codes_that_the_decoder_draws(trained: Trained, tmp_path: Path) -> None:
    _, model, data = trained
    batches: Any = trainer(tmp_path).predict(model, data)
    codes = torch.cat(batches)

    assert codes.shape == (len(data.test_set), 8)
    with torch.no_grad():
        assert torch.allclose(model.decoder(codes), model(data.test_set.tensors[0]), atol=1e-6)


def test_its_logger_gets_pictures_of_images_and_of_what_came_of_them(trained: Trained) -> None:
    run, _, data = trained
    assert isinstance(run.logger, Album)
    steps = run.num_training_batches

    assert [(tag, step) for tag, _, step in run.logger.kept] == [
        ("reconstructions", epochs * steps) for epochs in (5, 10)
    ]
    picture = run.logger.kept[-1][1]
    assert picture.shape == (1, (2 * 9 - 1) * 4, (16 * 9 - 1) * 4)
    assert torch.equal(picture[0, : 8 * 4 : 4, : 8 * 4 : 4], data.val_set.tensors[0][0, 0])


def test_a_checkpoint_loads_outside_and_gives_the_same_codes(trained: Trained, tmp_path: Path) -> None:
    run, model, data = trained
    run.save_checkpoint(tmp_path / "model.ckpt")

    loaded = Autoencoder.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True).eval()

    x = data.test_set.tensors[0]
    assert torch.equal(loaded.encoder(x), model.encoder(x))


@pytest.mark.parametrize(("channels", "size"), [(3, 32), (1, 4)])
def test_it_takes_images_of_any_size_that_can_be_halved_twice(channels: int, size: int) -> None:
    images = torch.zeros(2, channels, size, size)

    assert Autoencoder(in_channels=channels, image_size=size, width=4)(images).shape == images.shape


def test_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="`image_size` 10 must be a multiple of 4"):
        Autoencoder(image_size=10)
