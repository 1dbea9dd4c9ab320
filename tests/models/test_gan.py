"""The network that draws digits: what it learns in five epochs of `examples/gan.yaml`, and how."""

from pathlib import Path

import pytest
import torch
from pytorch_lightning import Trainer, seed_everything
from scipy.linalg import sqrtm
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from models.data import Digits
from models.gan import FrechetDistance, ImageGAN
from tests.models.album import Album
from tests.models.runs import command_line, trainer

Trained = tuple[Trainer, ImageGAN, Digits]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The example after five epochs, five or ten seconds."""
    cli = command_line("gan.yaml", tmp_path_factory.mktemp("gan"), max_epochs=5)
    cli.trainer.loggers = [Album()]
    cli.trainer.fit(cli.model, cli.datamodule)
    return cli.trainer, cli.model.eval(), cli.datamodule


def distance(real: Tensor, generated: Tensor) -> float:
    metric = FrechetDistance(real[0].numel())
    metric.update(real, generated)
    return float(metric.compute())


def drawn(model: ImageGAN, labels: Tensor) -> Tensor:
    torch.manual_seed(0)
    with torch.no_grad():
        images: Tensor = model(labels)
    return images


def test_its_digits_are_nearer_to_real_ones_than_noise_and_than_one_good_image_of_each(trained: Trained) -> None:
    _, model, data = trained
    (x, y), (real, labels) = data.train_set.tensors, data.test_set.tensors
    means = torch.stack([x[y == digit].mean(dim=0) for digit in range(10)])

    reached = distance(real, drawn(model, labels))

    assert distance(real, torch.rand(real.shape)) > 9
    assert distance(real, means[labels]) > 1.7
    assert reached < 1.5


def test_a_classifier_of_real_digits_reads_the_digits_that_were_asked_for(trained: Trained) -> None:
    _, model, data = trained
    x, y = data.train_set.tensors
    judge = KNeighborsClassifier(1).fit(x.flatten(1).numpy(), y.numpy())
    labels = torch.arange(10).repeat_interleave(50)

    read = judge.predict(drawn(model, labels).flatten(1).numpy())

    assert (read == labels.numpy()).mean() > 0.85


def test_global_step_counts_the_steps_of_both_optimizers_and_both_schedulers_go_down(trained: Trained) -> None:
    run, model, _ = trained

    assert run.global_step == 2 * 5 * run.num_training_batches
    for optimizer in run.optimizers:
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.002 * (1 - 0.9 * 5 / 40))
    assert set(run.callback_metrics) == {"d_loss", "g_loss", "val_frechet", "d_lr", "g_lr"}
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_its_logger_gets_a_picture_of_all_classes_from_the_noise_of_the_checkpoint(trained: Trained) -> None:
    run, model, _ = trained
    assert isinstance(run.logger, Album)
    [(tag, picture, step)] = run.logger.kept

    assert (tag, step) == ("samples", run.global_step)
    assert picture.shape == (1, (10 * 9 - 1) * 4, (10 * 9 - 1) * 4)
    assert torch.equal(model.state_dict()["sample_noise"], model.sample_noise)
    with torch.no_grad():
        corner = model.generator(model.sample_noise[:10], torch.zeros(10, dtype=torch.int64))[0, 0]
    assert torch.equal(picture[0, : 8 * 4 : 4, : 8 * 4 : 4], corner)


def test_a_step_of_one_network_leaves_the_other_as_it_is(tmp_path: Path) -> None:
    class Watched(ImageGAN):
        def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
            mine = {id(p) for group in optimizer.param_groups for p in group["params"]}
            learning = {id(p) for p in self.parameters() if p.requires_grad}
            assert learning == mine
            self.seen = [*getattr(self, "seen", []), len(mine)]

    model = Watched(width=4)
    trainer(tmp_path, max_epochs=1, limit_train_batches=1, limit_val_batches=0).fit(model, Digits())

    assert model.seen == [len(list(model.discriminator.parameters())), len(list(model.generator.parameters()))]


def test_the_same_seed_gives_the_same_weights_and_a_checkpoint_draws_the_same_outside(tmp_path: Path) -> None:
    models = []
    for _ in range(2):
        seed_everything(3, verbose=False)
        model, run = ImageGAN(width=4), trainer(tmp_path, max_epochs=1, limit_train_batches=3, limit_val_batches=1)
        run.fit(model, Digits())
        run.save_checkpoint(tmp_path / "model.ckpt")
        models.append(model)
    loaded = ImageGAN.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    states = [model.state_dict() for model in [*models, loaded]]

    assert all(torch.equal(states[0][name], other[name]) for other in states[1:] for name in states[0])
    labels = torch.arange(10)
    assert torch.equal(drawn(models[0].eval(), labels), drawn(loaded.eval(), labels))


def test_the_distance_is_frechets() -> None:
    torch.manual_seed(0)
    one, two = torch.randn(500, 1, 2, 3), 2 * torch.randn(400, 1, 2, 3) + 1
    (mean_1, cov_1), (mean_2, cov_2) = [(x.mean(0), x.T.cov(correction=0)) for x in (one.flatten(1), two.flatten(1))]
    expected = (mean_1 - mean_2).square().sum() + (cov_1 + cov_2).trace() - 2 * sqrtm((cov_1 @ cov_2).numpy()).trace()

    assert distance(one, two) == pytest.approx(float(expected.real), rel=1e-3)
    assert distance(one, one) == pytest.approx(0, abs=1e-4)


def test_an_odd_image_size_is_refused() -> None:
    with pytest.raises(ValueError, match="`image_size` 7 must be even"):
        ImageGAN(image_size=7)
