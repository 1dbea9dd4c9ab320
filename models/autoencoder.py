"""An autoencoder of small images: a picture through the eye of a needle and back.

Shapes: B images of a batch, C channels, H rows, W columns, Z numbers of a code.
"""

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from models import pictures
from models.bounds import Count, NonNegative, Positive

Batch = tuple[Tensor, Tensor]
"""Images x_BCHW (float, between 0 and 1) and labels, which an autoencoder does not look at."""


class Autoencoder(LightningModule):
    """Codes of a few numbers, from which images can be drawn again: what principal components do, but curved.

    The encoder is two strided convolutions and a linear layer, the decoder the same backwards (Hinton and
    Salakhutdinov, doi:10.1126/science.1127647, is why it beats principal components of the same number).

    Logs `train_loss` (each step) and `train_loss_epoch`, `val_loss`, `test_loss`, mean squared errors of a pixel. After
    a validation a picture, images above and what came of them below, goes to a logger that takes pictures, as
    `reconstructions`.
    """

    def __init__(
        self,
        in_channels: Count = 1,
        image_size: Count = 8,
        code_size: Count = 8,
        width: Count = 32,
        lr: Positive = 3e-3,
        weight_decay: NonNegative = 1e-2,
        num_shown: Count = 16,
        show_every_n_epochs: Count = 5,
    ) -> None:
        """Build the network.

        Args:
            in_channels: Channels of the images: 1 for grey, 3 for colour.
            image_size: Rows and columns of the images; a multiple of four.
            code_size: Numbers of a code.
            width: Channels after the first convolution; the second doubles them.
            lr: Learning rate of AdamW, where the config names no optimizer.
            weight_decay: Weight decay of AdamW, where the config names no optimizer.
            num_shown: Images of the picture, the first ones of the validation.
            show_every_n_epochs: Epochs from one such picture to the next.

        Raises:
            ValueError: the image size is no multiple of four.
        """
        super().__init__()
        if image_size % 4:
            raise ValueError(f"`image_size` {image_size} must be a multiple of 4: the network halves it twice.")
        self.save_hyperparameters()
        self.lr = lr
        self.weight_decay = weight_decay
        self.num_shown = num_shown
        self.show_every_n_epochs = show_every_n_epochs

        size = image_size // 4
        self.encoder = nn.Sequential(
            nn.Conv2d(in_channels, width, kernel_size=3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(width, 2 * width, kernel_size=3, stride=2, padding=1),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(2 * width * size**2, code_size),
        )
        self.decoder = nn.Sequential(
            nn.Linear(code_size, 2 * width * size**2),
            nn.GELU(),
            nn.Unflatten(1, (2 * width, size, size)),
            nn.ConvTranspose2d(2 * width, width, kernel_size=4, stride=2, padding=1),
            nn.GELU(),
            nn.ConvTranspose2d(width, in_channels, kernel_size=4, stride=2, padding=1),
            nn.Sigmoid(),
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Images again (B, C, H, W), from the codes of images."""
        again_BCHW: Tensor = self.decoder(self.encoder(x_BCHW))
        return again_BCHW

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean squared error of one batch."""
        x_BCHW, _ = batch
        loss = F.mse_loss(self(x_BCHW), x_BCHW)
        self.log("train_loss", loss, on_step=True, prog_bar=True)
        self.log("train_loss_epoch", loss, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(x_BCHW))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the error on the validation split, and show its first images."""
        x_BCHW, _ = batch
        again_BCHW = self(x_BCHW)
        self.log("val_loss", F.mse_loss(again_BCHW, x_BCHW), prog_bar=True, sync_dist=True, batch_size=len(x_BCHW))
        is_time = not self.trainer.sanity_checking and (self.current_epoch + 1) % self.show_every_n_epochs == 0
        if batch_idx == 0 and is_time:
            num = min(self.num_shown, len(x_BCHW))
            pairs_NCHW = torch.cat([x_BCHW[:num], again_BCHW[:num]])
            pictures.show(self, "reconstructions", pictures.grid(pairs_NCHW, columns=num))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the error on the test split."""
        x_BCHW, _ = batch
        self.log("test_loss", F.mse_loss(self(x_BCHW), x_BCHW), sync_dist=True, batch_size=len(x_BCHW))

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Codes (B, Z)."""
        x_BCHW, _ = batch
        codes_BZ: Tensor = self.encoder(x_BCHW)
        return codes_BZ

    def configure_optimizers(self) -> Optimizer:
        """AdamW over everything; an `optimizer` in the config takes its place."""
        return AdamW(self.parameters(), lr=self.lr, weight_decay=self.weight_decay)
