"""Classifiers of small images.

Shapes: B images of a batch, C channels, H rows, W columns, K classes.
"""

from itertools import pairwise

import torch.nn.functional as F
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torchmetrics.classification import MulticlassAccuracy

from models.bounds import Count, NonNegative, Positive, Probability

Batch = tuple[Tensor, Tensor]
"""Images x_BCHW (float) and labels y_B (int64, 0 … K - 1)."""


class ConvStage(nn.Sequential):
    """Two 3 × 3 convolutions, then half the height and width: (B, C_in, H, W) → (B, C_out, H // 2, W // 2)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            # Batch normalisation has a bias of its own, so the convolutions need none.
            nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=2),
        )


class ImageClassifier(LightningModule):
    """A convolutional classifier of small images, of any size from 2**num_stages pixels on.

    Two convolutions and a pooling per stage, each stage twice as wide as the one before (the plan of VGG,
    arXiv:1409.1556, with batch normalisation), then the mean over what is left of the image and one linear layer.

    Logs `train_loss` (each step) and `train_loss_epoch`, `val_loss`, `val_acc`, `test_loss`, `test_acc`.
    """

    def __init__(
        self,
        in_channels: Count = 1,
        num_classes: Count = 10,
        width: Count = 32,
        num_stages: Count = 2,
        dropout: Probability = 0.2,
        lr: Positive = 2e-3,
        weight_decay: NonNegative = 1e-2,
    ) -> None:
        """Build the network.

        Args:
            in_channels: Channels of the images: 1 for grey, 3 for colour.
            num_classes: Number of classes; labels are 0 … num_classes - 1.
            width: Channels after the first stage; every further stage doubles them.
            num_stages: Stages; each halves height and width.
            dropout: Share of the features that training leaves out before the last layer.
            lr: Learning rate of AdamW, where the config names no optimizer.
            weight_decay: Weight decay of AdamW, where the config names no optimizer.
        """
        super().__init__()
        self.save_hyperparameters()
        self.lr = lr
        self.weight_decay = weight_decay

        channels = [in_channels] + [width * 2**stage for stage in range(num_stages)]
        stages = (ConvStage(before, after) for before, after in pairwise(channels))
        self.features = nn.Sequential(*stages)
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(channels[-1], num_classes),
        )
        # Training keeps no such accumulator: it would be lost when a run stops and resumes in the middle of an epoch.
        self.val_acc = MulticlassAccuracy(num_classes, average="micro")
        self.test_acc = MulticlassAccuracy(num_classes, average="micro")

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits (B, K) of images."""
        logits_BK: Tensor = self.head(self.features(x_BCHW))
        return logits_BK

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Cross-entropy of one batch."""
        x_BCHW, y_B = batch
        loss = F.cross_entropy(self(x_BCHW), y_B)
        self.log("train_loss", loss, on_step=True, prog_bar=True)
        self.log("train_loss_epoch", loss, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(y_B))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the loss and the accuracy on the validation split."""
        self._evaluate(batch, "val", self.val_acc)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the loss and the accuracy on the test split."""
        self._evaluate(batch, "test", self.test_acc)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Probabilities (B, K) of the classes."""
        x_BCHW, _ = batch
        logits_BK: Tensor = self(x_BCHW)
        return logits_BK.softmax(dim=1)

    def configure_optimizers(self) -> Optimizer:
        """AdamW over everything; an `optimizer` in the config takes its place."""
        return AdamW(self.parameters(), lr=self.lr, weight_decay=self.weight_decay)

    def _evaluate(self, batch: Batch, split: str, accuracy: MulticlassAccuracy) -> None:
        x_BCHW, y_B = batch
        logits_BK = self(x_BCHW)
        accuracy(logits_BK, y_B)
        self.log(f"{split}_loss", F.cross_entropy(logits_BK, y_B), sync_dist=True, batch_size=len(y_B))
        self.log(f"{split}_acc", accuracy, prog_bar=True, batch_size=len(y_B))
