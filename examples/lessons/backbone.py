"""A LightningModule that is given the network which it trains."""

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from torch import Tensor, nn


class Encoder(nn.Module):
    """A plain nn.Module: it computes, and does not say how it is trained. (B, 1, 8, 8) → (B, size)."""

    def __init__(self, size: int = 32, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, size), activation or nn.ReLU())
        self.size = size

    def forward(self, x_B1HW: Tensor) -> Tensor:
        features_BS: Tensor = self.layers(x_B1HW)
        return features_BS


class Classifier(LightningModule):
    """Classifies digits by what the backbone makes of them: any module from an image to a row of numbers."""

    def __init__(self, backbone: nn.Module, num_classes: int = 10) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.LazyLinear(num_classes)

    def configure_model(self) -> None:
        """Let the head find out how many numbers the backbone makes."""
        if isinstance(self.head, nn.LazyLinear):
            with torch.no_grad():
                self.head(self.backbone(torch.zeros(2, 1, 8, 8)))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x_B1HW, y_B = batch
        loss = F.cross_entropy(self.head(self.backbone(x_B1HW)), y_B)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-2)
