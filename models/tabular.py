"""Multi-layer perceptrons for tables of numbers.

Shapes: B rows of a batch, F features, K classes.
"""

from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import AdamW, Optimizer
from torchmetrics import MeanAbsoluteError, R2Score
from torchmetrics.classification import MulticlassAccuracy

from models.bounds import Count, NonNegative, Positive, Probability

Batch = tuple[Tensor, Tensor]
"""Features x_BF (float, standardised) and targets y_B (int64 classes, or float numbers)."""


class MLP(nn.Sequential):
    """Linear layers with ReLU and dropout between them: (B, num_inputs) → (B, num_outputs).

    Their sizes may come late, from the data, but their parameters are there from the start: LightningCLI hands them to
    the config's optimizer before any data is read.
    """

    def __init__(self, hidden_sizes: list[int], dropout: float) -> None:
        layers: list[nn.Module] = []
        for size in hidden_sizes:
            layers += [nn.LazyLinear(size), nn.ReLU(), nn.Dropout(dropout)]
        super().__init__(*layers, nn.LazyLinear(0))

    def settle(self, num_inputs: int, num_outputs: int) -> None:
        """Give the parameters their shapes and their first values, once; a second call changes nothing."""
        last = self[-1]
        assert isinstance(last, nn.Linear)
        if not is_lazy(last.weight):
            return
        last.out_features = num_outputs
        with torch.no_grad():
            self.eval()(torch.zeros(1, num_inputs, device=last.weight.device, dtype=last.weight.dtype))
        self.train()


class TabularClassifier(LightningModule):
    """Which of K classes a row belongs to.

    Logs `train_loss` (each step) and `train_loss_epoch`, `val_loss`, `val_acc`, `test_loss`, `test_acc`.
    """

    def __init__(
        self,
        num_features: Count | None = None,
        num_classes: Count | None = None,
        hidden_sizes: list[Count] = [64, 64],  # noqa: B006 - jsonargparse and the schema read it; nothing changes it
        dropout: Probability = 0.1,
        lr: Positive = 3e-3,
        weight_decay: NonNegative = 1e-2,
    ) -> None:
        """Build the network; sizes that are not given follow from the data.

        Args:
            num_features: Features of a row; default is what the DataModule has.
            num_classes: Number of classes; default is what the DataModule has.
            hidden_sizes: Width of each hidden layer; none at all makes a linear model.
            dropout: Share of each hidden layer that training leaves out.
            lr: Learning rate of AdamW, where the config names no optimizer.
            weight_decay: Weight decay of AdamW, where the config names no optimizer.
        """
        super().__init__()
        self.save_hyperparameters()
        self.lr = lr
        self.weight_decay = weight_decay
        self.network = MLP(hidden_sizes, dropout)
        self.val_acc = MulticlassAccuracy(average="micro")
        self.test_acc = MulticlassAccuracy(average="micro")
        if num_features is not None and num_classes is not None:
            self.configure_model()

    def configure_model(self) -> None:
        """Give the network the sizes of the config, of the checkpoint or of the DataModule.

        Raises:
            ValueError: a size is in none of them, or the config's differs from the data's.
        """
        self.network.settle(known_size(self, "num_features"), known_size(self, "num_classes"))

    def forward(self, x_BF: Tensor) -> Tensor:
        """Logits (B, K) of rows."""
        logits_BK: Tensor = self.network(x_BF)
        return logits_BK

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Cross-entropy of one batch."""
        x_BF, y_B = batch
        loss = F.cross_entropy(self(x_BF), y_B)
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
        x_BF, _ = batch
        logits_BK: Tensor = self(x_BF)
        return logits_BK.softmax(dim=1)

    def configure_optimizers(self) -> Optimizer:
        """AdamW over everything; an `optimizer` in the config takes its place."""
        return AdamW(self.parameters(), lr=self.lr, weight_decay=self.weight_decay)

    def _evaluate(self, batch: Batch, split: str, accuracy: MulticlassAccuracy) -> None:
        x_BF, y_B = batch
        logits_BK = self(x_BF)
        accuracy(logits_BK, y_B)
        self.log(f"{split}_loss", F.cross_entropy(logits_BK, y_B), sync_dist=True, batch_size=len(y_B))
        self.log(f"{split}_acc", accuracy, prog_bar=True, batch_size=len(y_B))


class TabularRegressor(LightningModule):
    """A number for each row.

    The network learns the target less its mean, in units of its standard deviation, both of the training split and
    kept in the checkpoint; `forward` answers in the target's own unit.

    Logs `train_loss` (each step), `train_loss_epoch`, `val_loss` and `test_loss`, mean squared errors in units of the
    target's variance; `val_mae` and `test_mae`, mean absolute errors in the target's own unit; `val_r2` and `test_r2`.
    """

    target_mean: Tensor
    target_std: Tensor

    def __init__(
        self,
        num_features: Count | None = None,
        hidden_sizes: list[Count] = [64, 64],  # noqa: B006 - jsonargparse and the schema read it; nothing changes it
        dropout: Probability = 0.1,
        lr: Positive = 3e-3,
        weight_decay: NonNegative = 1e-2,
    ) -> None:
        """Build the network; sizes that are not given follow from the data.

        Args:
            num_features: Features of a row; default is what the DataModule has.
            hidden_sizes: Width of each hidden layer; none at all makes a linear model.
            dropout: Share of each hidden layer that training leaves out.
            lr: Learning rate of AdamW, where the config names no optimizer.
            weight_decay: Weight decay of AdamW, where the config names no optimizer.
        """
        super().__init__()
        self.save_hyperparameters()
        self.lr = lr
        self.weight_decay = weight_decay
        self.network = MLP(hidden_sizes, dropout)
        self.register_buffer("target_mean", torch.tensor(0.0))
        self.register_buffer("target_std", torch.tensor(1.0))
        self.val_mae, self.val_r2 = MeanAbsoluteError(), R2Score()
        self.test_mae, self.test_r2 = MeanAbsoluteError(), R2Score()
        if num_features is not None:
            self.configure_model()

    def configure_model(self) -> None:
        """Give the network the size of the config, of the checkpoint or of the DataModule.

        Raises:
            ValueError: the size is in none of them, or the config's differs from the data's.
        """
        self.network.settle(known_size(self, "num_features"), 1)

    def on_fit_start(self) -> None:
        """Take the target's mean and standard deviation from a DataModule that has them.

        Raises:
            ValueError: the DataModule's target is a class.
        """
        datamodule: Any = self.trainer.datamodule  # type: ignore[attr-defined] # the Trainer sets it at run time
        if hasattr(datamodule, "num_classes"):
            raise ValueError(f"{type(datamodule).__name__} has classes for a target: train a TabularClassifier on it.")
        if hasattr(datamodule, "target_mean") and hasattr(datamodule, "target_std"):
            self.target_mean.fill_(datamodule.target_mean)
            self.target_std.fill_(datamodule.target_std)

    def forward(self, x_BF: Tensor) -> Tensor:
        """Predictions (B,) in the target's own unit."""
        return self._standardised(x_BF) * self.target_std + self.target_mean

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean squared error of one batch."""
        x_BF, y_B = batch
        loss = F.mse_loss(self._standardised(x_BF), (y_B - self.target_mean) / self.target_std)
        self.log("train_loss", loss, on_step=True, prog_bar=True)
        self.log("train_loss_epoch", loss, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(y_B))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the errors on the validation split."""
        self._evaluate(batch, "val", self.val_mae, self.val_r2)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the errors on the test split."""
        self._evaluate(batch, "test", self.test_mae, self.test_r2)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Predictions (B,) in the target's own unit."""
        x_BF, _ = batch
        return self.forward(x_BF)

    def configure_optimizers(self) -> Optimizer:
        """AdamW over everything; an `optimizer` in the config takes its place."""
        return AdamW(self.parameters(), lr=self.lr, weight_decay=self.weight_decay)

    def _standardised(self, x_BF: Tensor) -> Tensor:
        z_B: Tensor = self.network(x_BF).squeeze(1)
        return z_B

    def _evaluate(self, batch: Batch, split: str, mae: MeanAbsoluteError, r2: R2Score) -> None:
        x_BF, y_B = batch
        prediction_B = self.forward(x_BF)
        mae(prediction_B, y_B)
        r2.update(prediction_B, y_B)  # R² of a batch of one row is undefined; that of the split is what counts
        loss = F.mse_loss(prediction_B, y_B) / self.target_std**2
        self.log(f"{split}_loss", loss, sync_dist=True, batch_size=len(y_B))
        self.log(f"{split}_mae", mae, prog_bar=True, batch_size=len(y_B))
        self.log(f"{split}_r2", r2, batch_size=len(y_B))


def known_size(module: LightningModule, name: str) -> int:
    """A size of `module`'s data: of its hyperparameters, else of the DataModule it trains on.

    What the DataModule says is put into the hyperparameters, so that each checkpoint bears it and
    `load_from_checkpoint` needs no data.

    Raises:
        ValueError: neither has it, or they differ.
    """
    given: int | None = module.hparams[name]
    trainer = module._trainer
    datamodule = getattr(trainer, "datamodule", None)
    found: int | None = getattr(datamodule, name, None)
    if given is not None and found is not None and given != found:
        raise ValueError(f"The model's {name} is {given}, but {type(datamodule).__name__} has {found}. Leave it out.")
    size = given if given is not None else found
    if size is None:
        raise ValueError(
            f"{type(module).__name__} does not know its {name}: set it in the model's init_args, "
            f"or train on a DataModule that has the attribute {name}, as models.data.Table does."
        )
    module.hparams[name] = size
    return size
