"""A generative adversarial network for small images: two networks, two optimizers, optimization by hand.

Shapes: B images of a batch, C channels, H rows, W columns, P pixels of an image (C × H × W), Z channels of the noise,
K classes, N images of all batches.
"""

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import LinearLR
from torchmetrics import Metric

from models import pictures
from models.bounds import Count, Positive

Batch = tuple[Tensor, Tensor]
"""Images x_BCHW (float, between 0 and 1) and labels y_B (int64, 0 … K - 1)."""


class Generator(nn.Module):
    """Noise z_BZ and labels y_B → images (B, C, H, W) between 0 and 1."""

    def __init__(self, channels: int, image_size: int, num_classes: int, latent_size: int, width: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.network = nn.Sequential(
            nn.Linear(latent_size + num_classes, 2 * width * (image_size // 2) ** 2),
            nn.Unflatten(1, (2 * width, image_size // 2, image_size // 2)),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(2 * width, width, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, channels, kernel_size=3, padding=1),
            nn.Sigmoid(),
        )

    def forward(self, z_BZ: Tensor, y_B: Tensor) -> Tensor:
        """Draw an image of each label."""
        x_BCHW: Tensor = self.network(torch.cat([z_BZ, F.one_hot(y_B, self.num_classes).to(z_BZ.dtype)], dim=1))
        return x_BCHW


class Discriminator(nn.Module):
    """Images x_BCHW and labels y_B → logits (B,): above 0 where an image of that label looks real."""

    def __init__(self, channels: int, image_size: int, num_classes: int, width: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, width, kernel_size=3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, kernel_size=3, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
        )
        size = 2 * width * (image_size // 2) ** 2
        self.realness = nn.Linear(size, 1)
        self.class_embedding = nn.Embedding(num_classes, size)
        nn.init.normal_(self.class_embedding.weight, std=size**-0.5)

    def forward(self, x_BCHW: Tensor, y_B: Tensor) -> Tensor:
        """Judge each image."""
        features_BF = self.features(x_BCHW)
        fits_B = (features_BF * self.class_embedding(y_B)).sum(dim=1)
        logits_B: Tensor = self.realness(features_BF).squeeze(1) + fits_B
        return logits_B


class FrechetDistance(Metric):
    """How far generated images are from real ones: the Fréchet distance of two normal distributions, 0 when equal.

    The distributions have the mean and the covariance of the images' pixels, as those of the Fréchet inception distance
    (arXiv:1706.08500) have of an inception network's features; images this small need no network.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    counts: Tensor
    sums: Tensor
    products: Tensor

    def __init__(self, num_pixels: int) -> None:
        super().__init__()
        self.add_state("counts", torch.zeros(2), dist_reduce_fx="sum")
        self.add_state("sums", torch.zeros(2, num_pixels), dist_reduce_fx="sum")
        self.add_state("products", torch.zeros(2, num_pixels, num_pixels), dist_reduce_fx="sum")

    def update(self, real_BCHW: Tensor, generated_BCHW: Tensor) -> None:
        """Add a batch of each kind."""
        for index, x_BCHW in enumerate((real_BCHW, generated_BCHW)):
            x_BP = x_BCHW.flatten(1)
            self.counts[index] += len(x_BP)
            self.sums[index] += x_BP.sum(dim=0)
            self.products[index] += x_BP.T @ x_BP

    def compute(self) -> Tensor:
        """The distance of all that was added."""
        counts_211 = self.counts.double().cpu()[:, None, None]
        means_2P1 = self.sums.double().cpu()[:, :, None] / counts_211
        covariances_2PP = self.products.double().cpu() / counts_211 - means_2P1 @ means_2P1.mT
        difference_P1 = means_2P1[0] - means_2P1[1]
        # The trace of the root of a product is the sum of the roots of its eigenvalues, of which sums made by rounding
        # may be a little below 0.
        eigenvalues_P = torch.linalg.eigvals(covariances_2PP[0] @ covariances_2PP[1]).real.clamp(min=0)
        traces = covariances_2PP.diagonal(dim1=1, dim2=2).sum()
        distance: Tensor = difference_P1.square().sum() + traces - 2 * eigenvalues_P.sqrt().sum()
        return distance.float()


class ImageGAN(LightningModule):
    """Draws images of a class that one asks for; it learns to by having another network tell them from real ones.

    The two play Goodfellow's game with the loss that does not saturate (arXiv:1406.2661), given the label
    (arXiv:1411.1784); the discriminator compares label and image by a product (arXiv:1802.05637). Convolutions, Adam
    and its settings are DCGAN's (arXiv:1511.06434).

    Logs `d_loss`, `g_loss` (each step), `val_frechet` (`FrechetDistance` to the validation images), and the learning
    rates as `d_lr` and `g_lr`. After a validation a picture of all classes, a row for each and always from the same
    noise, goes to a logger that takes pictures, as `samples`.

    Optimization is by hand: each step of a network's optimizer counts for the Trainer, so `global_step` and `max_steps`
    go up by two with each batch.
    """

    sample_noise: Tensor

    def __init__(
        self,
        in_channels: Count = 1,
        image_size: Count = 8,
        num_classes: Count = 10,
        latent_size: Count = 32,
        width: Count = 32,
        d_lr: Positive = 2e-3,
        g_lr: Positive = 2e-3,
        lr_decay_epochs: Count = 40,
        samples_per_class: Count = 10,
        sample_every_n_epochs: Count = 5,
    ) -> None:
        """Build the two networks.

        Args:
            in_channels: Channels of the images: 1 for grey, 3 for colour.
            image_size: Rows and columns of the images; an even number.
            num_classes: Number of classes; labels are 0 … num_classes - 1.
            latent_size: Channels of the noise that an image is made of.
            width: Channels of the widest pictures within the networks; smaller ones have twice as many.
            d_lr: Learning rate of the discriminator, at first.
            g_lr: Learning rate of the generator, at first.
            lr_decay_epochs: Epochs in which both learning rates fall to a tenth.
            samples_per_class: Columns of the picture of samples.
            sample_every_n_epochs: Epochs from one such picture to the next.

        Raises:
            ValueError: the image size is odd.
        """
        super().__init__()
        if image_size % 2:
            raise ValueError(f"`image_size` {image_size} must be even: the networks halve it.")
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.num_classes = num_classes
        self.latent_size = latent_size
        self.d_lr = d_lr
        self.g_lr = g_lr
        self.lr_decay_epochs = lr_decay_epochs
        self.samples_per_class = samples_per_class
        self.sample_every_n_epochs = sample_every_n_epochs

        self.generator = Generator(in_channels, image_size, num_classes, latent_size, width)
        self.discriminator = Discriminator(in_channels, image_size, num_classes, width)
        self.val_frechet = FrechetDistance(in_channels * image_size**2)
        # A buffer: it goes into the checkpoint, so that the pictures of a resumed run go on from the same noise.
        self.register_buffer("sample_noise", torch.randn(num_classes * samples_per_class, latent_size))

    def forward(self, y_B: Tensor) -> Tensor:
        """Images (B, C, H, W) of labels, from new noise."""
        images_BCHW: Tensor = self.generator(torch.randn(len(y_B), self.latent_size, device=y_B.device), y_B)
        return images_BCHW

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One step of the discriminator, then one of the generator."""
        x_BCHW, y_B = batch
        d_optimizer, g_optimizer = self.optimizers()  # type: ignore[attr-defined] # there are two

        # While one network learns, the other's parameters need no gradients: toggling sees to that.
        self.toggle_optimizer(d_optimizer)
        generated_BCHW = self(y_B)
        real_B = self.discriminator(x_BCHW, y_B)
        fake_B = self.discriminator(generated_BCHW.detach(), y_B)
        d_loss = F.softplus(-real_B).mean() + F.softplus(fake_B).mean()
        d_optimizer.zero_grad()
        self.manual_backward(d_loss)
        d_optimizer.step()
        self.untoggle_optimizer(d_optimizer)

        self.toggle_optimizer(g_optimizer)
        g_loss = F.softplus(-self.discriminator(self(y_B), y_B)).mean()
        g_optimizer.zero_grad()
        self.manual_backward(g_loss)
        g_optimizer.step()
        self.untoggle_optimizer(g_optimizer)

        self.log_dict({"d_loss": d_loss, "g_loss": g_loss}, prog_bar=True)

    def on_train_epoch_end(self) -> None:
        """Step both schedulers: with manual optimization nobody else does."""
        d_scheduler, g_scheduler = self.lr_schedulers()  # type: ignore[misc] # there are two
        self.log_dict({"d_lr": d_scheduler.get_last_lr()[0], "g_lr": g_scheduler.get_last_lr()[0]})
        d_scheduler.step()
        g_scheduler.step()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Compare images of the batch's labels with its own."""
        x_BCHW, y_B = batch
        self.val_frechet.update(x_BCHW, self(y_B))
        self.log("val_frechet", self.val_frechet, prog_bar=True, batch_size=len(y_B))

    def on_validation_epoch_end(self) -> None:
        """Show samples of every class."""
        if self.trainer.sanity_checking or (self.current_epoch + 1) % self.sample_every_n_epochs:
            return
        y_N = torch.arange(self.num_classes, device=self.device).repeat_interleave(self.samples_per_class)
        samples_NCHW = self.generator(self.sample_noise, y_N)
        pictures.show(self, "samples", pictures.grid(samples_NCHW, columns=self.samples_per_class))

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """New images (B, C, H, W) of a batch's labels."""
        _, y_B = batch
        images_BCHW: Tensor = self(y_B)
        return images_BCHW

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Two of each; the config's `optimizer`, which is one, cannot take their place."""
        d_optimizer = Adam(self.discriminator.parameters(), lr=self.d_lr, betas=(0.5, 0.999))
        g_optimizer = Adam(self.generator.parameters(), lr=self.g_lr, betas=(0.5, 0.999))
        d_scheduler = LinearLR(d_optimizer, start_factor=1.0, end_factor=0.1, total_iters=self.lr_decay_epochs)
        g_scheduler = LinearLR(g_optimizer, start_factor=1.0, end_factor=0.1, total_iters=self.lr_decay_epochs)
        return [d_optimizer, g_optimizer], [d_scheduler, g_scheduler]
