"""A file that `torch.load(…, weights_only=True)` reads, written a tensor at a time: all of it is never in memory.

Its layout is that of `torch.save`: a zip of stored entries, one for each tensor's bytes, and a pickle that names them.
"""

import pickle
import struct
import sys
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

FOLDER = "archive"
ALIGNED_BYTES = 64
"""Where torch lets the bytes of a tensor begin, so that a file may be mapped into memory."""
_HEADER_BYTES = 30
_PADDING = 0x4246
DEPTH_MAX = 32


class NotStorable(Exception):
    """A value that such a file cannot hold. The message names it."""


@dataclass(frozen=True, slots=True)
class _Stored:
    """A tensor whose bytes are in the file."""

    key: str
    dtype: torch.dtype
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Bytes:
    """The bytes of a tensor, as the pickle refers to them."""

    key: str
    size_bytes: int


class TorchFile:
    """A file under way; it is none before `close`."""

    def __init__(self, path: Path) -> None:
        self._zip = zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True)
        self._count = 0

    def add(self, value: Any) -> Any:
        """Write the tensors of a value; returns what stands for it in `close`.

        A value is made of tensors, numbers, texts, bytes and None, in lists, tuples and dicts; arrays of numpy become
        tensors. Raises `NotStorable` for anything else, and `OSError`.
        """
        return self._stored(value, 0)

    def close(self, whole: Any) -> None:
        """Write what the file holds, made of what `add` returned. Raises `OSError`."""
        with self._zip.open(self._entry("data.pkl"), "w", force_zip64=True) as file:
            _Pickler(file, protocol=2).dump(whole)
        self._zip.writestr(self._entry("byteorder"), sys.byteorder)
        self._zip.writestr(self._entry("version"), "3\n")
        self._zip.close()

    def _stored(self, value: Any, depth: int) -> Any:
        if depth > DEPTH_MAX:
            raise NotStorable(f"it is nested more than {DEPTH_MAX} deep")
        if isinstance(value, np.generic):
            value = value.item()
        if value is None or type(value) in (bool, int, float, str, bytes):
            return value
        if isinstance(value, np.ndarray):
            value = _of_numpy(value)
        if isinstance(value, torch.Tensor):
            return self._tensor(value)
        if isinstance(value, dict):
            keys = [key for key in value if type(key) not in (bool, int, float, str)]
            if keys:
                raise NotStorable(f"a dict with a key of type {type(keys[0]).__name__}")
            return {key: self._stored(item, depth + 1) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            items = [self._stored(item, depth + 1) for item in value]
            return items if isinstance(value, list) else tuple(items)
        raise NotStorable(f"a value of type {type(value).__module__}.{type(value).__qualname__}")

    def _tensor(self, tensor: torch.Tensor) -> _Stored:
        if tensor.layout is not torch.strided or tensor.is_quantized:
            raise NotStorable("a sparse or quantized tensor")
        plain = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
        stored = _Stored(str(self._count), plain.dtype, tuple(plain.shape))
        data: Any = plain.reshape(-1).view(torch.uint8).numpy() if plain.numel() else b""
        self._zip.writestr(self._entry(f"data/{stored.key}"), memoryview(data))
        self._count += 1
        return stored

    def _entry(self, name: str) -> zipfile.ZipInfo:
        """An entry whose content begins at a multiple of `ALIGNED_BYTES`, as torch pads it: by an extra field."""
        entry = zipfile.ZipInfo(f"{FOLDER}/{name}")
        assert self._zip.fp is not None
        begins = self._zip.fp.tell() + _HEADER_BYTES + len(entry.filename) + 4
        entry.extra = struct.pack("<HH", _PADDING, pad := -begins % ALIGNED_BYTES) + b"Z" * pad
        return entry


class _Pickler(pickle.Pickler):
    """Writes a tensor as torch does, its bytes by reference."""

    def reducer_override(self, obj: Any) -> Any:
        """A tensor is made again of its bytes, type and shape."""
        if not isinstance(obj, _Stored):
            return NotImplemented
        size_bytes = torch.Size(obj.shape).numel() * obj.dtype.itemsize
        strides = torch.empty(obj.shape, device="meta").stride()
        hooks: OrderedDict[Any, Any] = OrderedDict()
        arguments = (_Bytes(obj.key, size_bytes), 0, obj.shape, strides, False, hooks, obj.dtype)
        return torch._utils._rebuild_tensor_v3, arguments

    def persistent_id(self, obj: Any) -> Any:
        """How torch refers to bytes: kind, storage class, name, device, size."""
        if isinstance(obj, _Bytes):
            return ("storage", torch.UntypedStorage, obj.key, "cpu", obj.size_bytes)
        return None


def _of_numpy(array: np.ndarray[Any, Any]) -> torch.Tensor:
    try:
        return torch.from_numpy(np.ascontiguousarray(array))
    except TypeError as error:
        raise NotStorable(f"an array of numpy of type {array.dtype}") from error
