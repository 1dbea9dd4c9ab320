from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits

from models.data import Digits
from models.data.digits import shift


def ready(**arguments: Any) -> Digits:
    data = Digits(**arguments)
    data.prepare_data()
    data.setup("fit")
    return data


def test_the_splits_hold_every_image_once_between_0_and_1() -> None:
    data = ready()
    x = torch.cat([part.tensors[0] for part in (data.train_set, data.val_set, data.test_set)])

    assert x.shape == (1797, 1, 8, 8)
    assert x.sum().item() * 16 == load_digits().data.sum()
    assert (x.min().item(), x.max().item()) == (0, 1)


def test_an_image_keeps_its_label() -> None:
    digits = load_digits()
    x, label = ready().test_set[0]

    [row] = (digits.images == (x[0] * 16).numpy()).all(axis=(1, 2)).nonzero()[0]
    assert digits.target[row] == label


def test_the_test_split_is_the_same_whatever_the_batch_size() -> None:
    assert torch.equal(ready(batch_size=3).test_set.tensors[0], ready(batch_size=500).test_set.tensors[0])


def test_the_images_are_prepared_once(tmp_path: Path) -> None:
    first = ready(data_dir=str(tmp_path))
    prepared = first.path.stat()
    ready(data_dir=str(tmp_path))

    assert first.path.stat().st_ino == prepared.st_ino
    assert first.path.stat().st_mtime_ns == prepared.st_mtime_ns


def test_a_shift_moves_each_image_by_whole_pixels_and_brings_in_zeros() -> None:
    torch.manual_seed(0)
    x = torch.arange(1.0, 17.0).reshape(1, 1, 4, 4).repeat(200, 2, 1, 1)
    moved = shift(x, 1)

    assert moved.shape == x.shape
    assert torch.equal(moved[:, 0], moved[:, 1])
    padded = torch.nn.functional.pad(x[0, 0], [1] * 4)
    possible = [padded[row : row + 4, column : column + 4] for row in range(3) for column in range(3)]
    counts = [sum(torch.equal(image[0], one) for image in moved) for one in possible]
    assert sum(counts) == 200
    assert min(counts) > 0
