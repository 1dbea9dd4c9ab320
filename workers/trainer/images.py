"""Images as modules log them, made into PNG files (ISO/IEC 15948) with nothing but torch, numpy and zlib."""

import struct
import zlib
from typing import Any

import torch
from torch import Tensor

GRID_COLUMNS = 8
"""As TensorBoard lays a batch out (torch/utils/tensorboard/_utils.py, `make_grid`)."""
PIXELS_MAX = 2**26
"""Of one image: 64 million, 8192 × 8192."""
_COLOR_TYPES = {1: 0, 3: 2, 4: 6}
"""Grey, RGB and RGBA, by how many channels there are."""


def png(image: Any, dataformats: str) -> bytes:
    """An image, or a batch of them as a grid, as a PNG file.

    `image` is a tensor, an array or nested lists of one dimension for each letter of `dataformats`: `N` images, `C`
    channels (1, 3 or 4), `H` rows and `W` columns. Floats are from 0 to 1, what lies beyond is cut off, integers from
    0 to 255. Raises `ValueError` for what is no image.
    """
    pixels = _hwc(torch.as_tensor(image).detach().cpu(), dataformats.upper())
    height, width, channels = pixels.shape
    # Each row begins with its filter; 0 is none.
    rows = torch.cat([torch.zeros(height, 1, dtype=torch.uint8), pixels.reshape(height, -1)], dim=1)
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOR_TYPES[channels], 0, 0, 0)
    body = zlib.compress(rows.numpy().tobytes(), 6)
    chunks = _chunk(b"IHDR", header) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _hwc(image: Tensor, letters: str) -> Tensor:
    """Rows, columns and channels, of 8 bits."""
    if sorted(letters) not in (sorted("HW"), sorted("CHW"), sorted("NCHW")):
        raise ValueError(f"dataformats is {letters[:20]!r}: it is HW, CHW or NCHW, in any order")
    if image.dim() != len(letters):
        raise ValueError(f"an image of shape {list(image.shape)} is no {letters}")
    if not 0 < image.numel() <= 4 * PIXELS_MAX:
        raise ValueError(f"an image of shape {list(image.shape)} has no pixels, or more than {PIXELS_MAX}")
    if "C" not in letters:
        image, letters = image.unsqueeze(0), "C" + letters
    if "N" not in letters:
        image, letters = image.unsqueeze(0), "N" + letters
    images = image.permute([letters.index(letter) for letter in "NCHW"])
    if images.shape[1] not in _COLOR_TYPES:
        raise ValueError(f"an image of {images.shape[1]} channels: 1, 3 or 4 can be shown")
    return _bytes(_grid(images)).permute(1, 2, 0)


def _bytes(image: Tensor) -> Tensor:
    if image.dtype == torch.uint8:
        return image
    if image.dtype.is_floating_point or image.dtype == torch.bool:
        return (image.float().nan_to_num() * 255).clamp(0, 255).to(torch.uint8)
    return image.clamp(0, 255).to(torch.uint8)


def _grid(images: Tensor) -> Tensor:
    count, channels, height, width = images.shape
    columns = min(count, GRID_COLUMNS)
    rows = -(-count // columns)
    blanks = images.new_zeros(rows * columns - count, channels, height, width)
    cells = torch.cat([images, blanks]).reshape(rows, columns, channels, height, width)
    return cells.permute(2, 0, 3, 1, 4).reshape(channels, rows * height, columns * width)
