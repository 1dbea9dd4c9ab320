"""Plain DataLoaders, as a script makes them: nothing here knows Lightning."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset, random_split

Loader = DataLoader[tuple[Tensor, ...]]


class DigitLoaders(NamedTuple):
    """One for each use, by the names that Lightning has for them."""

    train: Loader
    val: Loader


def digit_loaders(batch_size: int = 64, num_workers: int = 0, val_fraction: float = 0.2) -> DigitLoaders:
    """Scikit-learn's handwritten digits, in a random split that follows from the job's seed.

    Args:
        batch_size: Images of a batch.
        num_workers: Processes that load them.
        val_fraction: Share of the images for validation.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.from_numpy(digits.images).to(torch.float32).unsqueeze(1) / 16
    data = TensorDataset(images, torch.from_numpy(digits.target).to(torch.int64))
    train, val = random_split(data, [1 - val_fraction, val_fraction])
    return DigitLoaders(
        train=DataLoader(train, batch_size=batch_size, shuffle=True, num_workers=num_workers),
        val=DataLoader(val, batch_size=batch_size, num_workers=num_workers),
    )
