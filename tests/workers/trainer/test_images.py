"""PNG files, read back by a reader of the test's own."""

import struct
import zlib

import numpy as np
import pytest
import torch

from workers.trainer.images import png


def read(file: bytes) -> np.ndarray:
    """Rows, columns and channels of a PNG file of 8 bits whose rows have no filter."""
    assert file.startswith(b"\x89PNG\r\n\x1a\n")
    chunks, at = {}, 8
    while at < len(file):
        (length,) = struct.unpack(">I", file[at : at + 4])
        kind, data = file[at + 4 : at + 8], file[at + 8 : at + 8 + length]
        assert struct.unpack(">I", file[at + 8 + length : at + 12 + length]) == (zlib.crc32(kind + data),)
        chunks[kind] = data
        at += 12 + length
    width, height, depth, color, *_ = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert depth == 8
    channels = {0: 1, 2: 3, 6: 4}[color]
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, 1 + width * channels)
    assert not rows[:, 0].any()
    return rows[:, 1:].reshape(height, width, channels)


@pytest.mark.parametrize("letters", ["CHW", "HWC", "HCW"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pixels_come_out_as_they_went_in_whatever_the_order_of_dimensions(letters: str, channels: int) -> None:
    pixels = torch.randint(0, 256, (5, 7, channels), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    given = pixels.permute(["HWC".index(letter) for letter in letters])
    assert (read(png(given, letters)) == pixels.numpy()).all()


def test_floats_are_from_zero_to_one_and_cut_off_beyond() -> None:
    row = torch.tensor([[0.0, 0.5, 1.0, 2.0, -1.0, float("nan")]])
    assert read(png(row, "HW"))[0, :, 0].tolist() == [0, 127, 255, 255, 0, 0]
    assert read(png(row.numpy(), "hw"))[0, 1, 0] == 127
    assert read(png([[False, True]], "HW"))[0, :, 0].tolist() == [0, 255]
    assert read(png([[3, 300]], "HW"))[0, :, 0].tolist() == [3, 255]


def test_a_batch_is_a_grid_of_eight_in_a_row() -> None:
    images = torch.arange(10, dtype=torch.uint8).reshape(10, 1, 1, 1).expand(10, 1, 2, 3)
    grid = read(png(images, "NCHW"))[:, :, 0]
    assert grid.shape == (4, 24)
    assert grid[0, ::3].tolist() == list(range(8))
    assert grid[2, ::3].tolist() == [8, 9, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("shape", "letters"), [((2, 4, 4), "CHW"), ((4, 4), "CHW"), ((0, 4), "HW"), ((3, 4, 4), "CHX"), ((9, 9), "HH")]
)
def test_what_is_no_image_is_said_to_be_none(shape: tuple[int, ...], letters: str) -> None:
    with pytest.raises(ValueError, match=r"image|dataformats"):
        png(torch.zeros(shape), letters)
