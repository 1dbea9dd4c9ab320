"""Handwritten digits, 8 × 8 pixels: scikit-learn's copy of the UCI set (doi:10.24432/C50P49).

Shapes: B images of a batch, N images of a split, C channels (1), H rows (8), W columns (8).
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from models.bounds import Count, Fraction, Natural
from models.data.cache import cache_dir, prepare_once
from models.data.splits import split_rows

FILE_NAME = "digits-v1.pt"
MAX_INTENSITY = 16.0

Batch = tuple[Tensor, Tensor]
Loader = DataLoader[tuple[Tensor, ...]]


class Digits(LightningDataModule):
    """1,797 grey images of handwritten digits, 8 × 8 pixels between 0 and 1, with ten classes.

    The split is stratified and depends on `split_seed` alone. Nothing is downloaded: scikit-learn carries the images.
    """

    def __init__(
        self,
        data_dir: str | None = None,
        batch_size: Count = 64,
        num_workers: Natural = 0,
        val_fraction: Fraction = 0.15,
        test_fraction: Fraction = 0.2,
        split_seed: Natural = 0,
        random_shift: Natural = 0,
    ) -> None:
        """Remember what to load; nothing is read yet.

        Args:
            data_dir: Folder for the prepared images; default is `lightyard-models` in the user's cache folder.
            batch_size: Images of a batch.
            num_workers: Processes that load batches. The images lie in memory, so 0 is fastest here.
            val_fraction: Share of the images for validation.
            test_fraction: Share of the images for the test.
            split_seed: Seed of the split.
            random_shift: Shift each training image by up to so many pixels each way; 0 leaves them as they are.
        """
        super().__init__()
        self.save_hyperparameters()
        self.path = cache_dir(data_dir) / FILE_NAME
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction
        self.split_seed = split_seed
        self.random_shift = random_shift

    def prepare_data(self) -> None:
        """Write the images to the cache, once per machine."""
        prepare_once(self.path, _write_digits)

    def setup(self, stage: str) -> None:
        """Read the images and split them, in every process.

        Raises:
            ValueError: the fractions leave nothing to train on.
        """
        images = torch.load(self.path, weights_only=True)
        x_NCHW, y_N = images["x_NCHW"], images["y_N"]
        split = split_rows(y_N, self.val_fraction, self.test_fraction, self.split_seed)
        self.train_set = TensorDataset(x_NCHW[split.train], y_N[split.train])
        self.val_set = TensorDataset(x_NCHW[split.val], y_N[split.val])
        self.test_set = TensorDataset(x_NCHW[split.test], y_N[split.test])

    def train_dataloader(self) -> Loader:
        """Shuffled batches of the training split."""
        return self._loader(self.train_set, shuffle=True)

    def val_dataloader(self) -> Loader:
        """Batches of the validation split, in order."""
        return self._loader(self.val_set)

    def test_dataloader(self) -> Loader:
        """Batches of the test split, in order."""
        return self._loader(self.test_set)

    def predict_dataloader(self) -> Loader:
        """The test split again: its images are the ones that no model has seen."""
        return self._loader(self.test_set)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Shift the images of a training batch.

        This runs in the training process, on its random numbers, so the number of loader workers changes nothing.
        """
        if self.random_shift and self.trainer is not None and self.trainer.training:
            x_BCHW, y_B = batch
            return shift(x_BCHW, self.random_shift), y_B
        return batch

    def _loader(self, dataset: TensorDataset, shuffle: bool = False) -> Loader:
        # Workers end with their epoch: kept ones draw their seed only once, and then the order of the second epoch
        # would depend on whether the run was resumed in between.
        return DataLoader(dataset, batch_size=self.batch_size, shuffle=shuffle, num_workers=self.num_workers)


def shift(x_BCHW: Tensor, max_pixels: int) -> Tensor:
    """Move each image by its own random whole number of pixels, up to `max_pixels` each way; zeros come in."""
    B, _, H, W = x_BCHW.shape
    padded_BCHW = F.pad(x_BCHW, [max_pixels] * 4)
    offsets_2B = torch.randint(0, 2 * max_pixels + 1, (2, B), device=x_BCHW.device)
    rows_BH1 = (offsets_2B[0, :, None] + torch.arange(H, device=x_BCHW.device))[:, :, None]
    columns_B1W = (offsets_2B[1, :, None] + torch.arange(W, device=x_BCHW.device))[:, None, :]
    images_B11 = torch.arange(B, device=x_BCHW.device)[:, None, None]
    shifted_BHWC = padded_BCHW.permute(0, 2, 3, 1)[images_B11, rows_BH1, columns_B1W]
    return shifted_BHWC.permute(0, 3, 1, 2).contiguous()


def _write_digits(path: Path) -> None:
    # Imported here: whoever imports this module, a fork server above all, is spared scikit-learn with its threads,
    # and so is each run that finds the images prepared.
    from sklearn.datasets import load_digits

    digits = load_digits()
    x_NCHW = torch.from_numpy(digits.images).to(torch.float32).unsqueeze(1) / MAX_INTENSITY
    torch.save({"x_NCHW": x_NCHW, "y_N": torch.from_numpy(digits.target).to(torch.int64)}, path)
