"""The weights of a checkpoint as a safetensors file, made as it is read: nothing is imported, called or written.

A safetensors file is the size of a header, the header as JSON, and the tensors' bytes without a gap
(https://huggingface.co/docs/safetensors). Where each of its bytes comes from follows from the checkpoint's pickle, so
any part of it can be read at any time.
"""

import bisect
import itertools
import json
import math
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

from core.errors import Invalid
from core.torch_archive import Archive, read_at, unreadable
from core.torch_pickle import PICKLE_BYTES_MAX, Tensor, Unknown, read_pickle

LAYOUT = 1
"""Raised whenever the same checkpoint would give another file: whoever has a part of one must not go on with it."""
TENSORS_MAX = 100_000
EXPORT_TIMES_MAX = 8
"""The export may be so many times as large as its checkpoint: tied weights are written once for each name."""
STRIDED_BYTES_MAX = 128 * 2**20
"""Largest tensor that is put in order in memory, because its elements do not lie in the file in their order."""
RUNS_MAX = 2**20
"""In most so many runs along its longest dimension; each takes two microseconds."""

_STATE_DICTS = ("state_dict", "model")
"""Under which a checkpoint's weights are looked for: Lightning's name, and the usual one of loops with Fabric."""
_HEADER_ALIGNMENT = 8
_NAMES_TOLD = 8
_DTYPES = {
    "float64": ("F64", 8),
    "float32": ("F32", 4),
    "float16": ("F16", 2),
    "bfloat16": ("BF16", 2),
    "int64": ("I64", 8),
    "int32": ("I32", 4),
    "int16": ("I16", 2),
    "int8": ("I8", 1),
    "uint64": ("U64", 8),
    "uint32": ("U32", 4),
    "uint16": ("U16", 2),
    "uint8": ("U8", 1),
    "bool": ("BOOL", 1),
    "float8_e4m3fn": ("F8_E4M3", 1),
    "float8_e5m2": ("F8_E5M2", 1),
}
"""Of torch's name for it: safetensors' name, and the bytes of an element."""
_STORAGES = {
    "Double": "float64",
    "Float": "float32",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Long": "int64",
    "Int": "int32",
    "Short": "int16",
    "Char": "int8",
    "Byte": "uint8",
    "Bool": "bool",
    "ComplexFloat": "complex64",
    "ComplexDouble": "complex128",
}
_FORMATS: dict[int, Literal["B", "H", "I", "Q"]] = {1: "B", 2: "H", 4: "I", 8: "Q"}
"""Of `memoryview.cast`, for elements of so many bytes, whatever they mean."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A tensor of the export: its bytes, from `start` on, come from `source` of the checkpoint's file on.

    `shape` and `strides`, in elements, where they do not lie there in order; `span_bytes` is how far they reach.
    """

    start: int
    size_bytes: int
    source: int
    item_bytes: int
    span_bytes: int
    shape: tuple[int, ...] = ()
    strides: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Export:
    """Where every byte of a safetensors file comes from."""

    head: bytes
    pieces: tuple[Piece, ...]
    size_bytes: int

    @classmethod
    def of(cls, descriptor: int, size_bytes: int) -> "Export":
        """Read what a checkpoint's file of that size holds.

        Raises `Invalid` where it holds no weights, or weights that safetensors has no form for, and `OSError`.
        """
        archive = Archive(descriptor, size_bytes)
        if (archive.read("byteorder", 16) or b"little") != b"little":
            raise unreadable("its numbers are big-endian")
        pickle = archive.read("data.pkl", PICKLE_BYTES_MAX)
        assert pickle is not None  # without it there would be no archive
        state = _state_dict(read_pickle(pickle))
        tensors = {name: value for name, value in state.items() if type(value) is Tensor}
        if len(tensors) > TENSORS_MAX:
            raise unreadable(f"it has {len(tensors)} tensors; at most {TENSORS_MAX} are read")
        return _laid_out(archive, tensors, _left_out(state), most_bytes=EXPORT_TIMES_MAX * size_bytes)


class Weights:
    """A safetensors file that is read out of a checkpoint's, which it owns until it is closed."""

    def __init__(self, file: BinaryIO, export: Export) -> None:
        self.export = export
        self._file = file
        self._starts = [piece.start for piece in export.pieces]
        self._ordered: tuple[Piece, bytes] | None = None
        self._lock = threading.Lock()

    def read(self, offset: int, size_bytes: int) -> bytes:
        """So many bytes of the file, less where it ends before. Raises `OSError`."""
        parts = [self.export.head[offset : offset + size_bytes]]
        at, end = max(offset, len(self.export.head)), min(offset + size_bytes, self.export.size_bytes)
        index = max(0, bisect.bisect_right(self._starts, at) - 1)
        while at < end and index < len(self.export.pieces):
            piece = self.export.pieces[index]
            until = min(end, piece.start + piece.size_bytes)
            if at < until:
                parts.append(self._part(piece, at - piece.start, until - at))
                at = until
            index += 1
        return b"".join(parts)

    def close(self) -> None:
        """Close the checkpoint's file."""
        self._file.close()

    def _part(self, piece: Piece, offset: int, size_bytes: int) -> bytes:
        if piece.strides is None:
            return read_at(self._file.fileno(), piece.source + offset, size_bytes)
        with self._lock:
            if self._ordered is None or self._ordered[0] is not piece:
                self._ordered = None  # one at a time: they may be large
                self._ordered = piece, _in_order(piece, read_at(self._file.fileno(), piece.source, piece.span_bytes))
            return self._ordered[1][offset : offset + size_bytes]


def _state_dict(checkpoint: Any) -> Mapping[str, Any]:
    """The weights by name: of Lightning's checkpoint, of a loop's that keeps its model under `model`, or all there is.

    Raises `Invalid`.
    """
    found = checkpoint if type(checkpoint) is dict else {}
    for key in _STATE_DICTS:
        if type(found.get(key)) is dict and _has_tensors(found[key]):
            inside: dict[str, Any] = found[key]
            return inside
    if _has_tensors(found):
        return found
    there = ", ".join(f"{name[:60]!r} ({_words(value)})" for name, value in list(found.items())[:_NAMES_TOLD])
    keys = " or ".join(f"`{key}`" for key in _STATE_DICTS)
    raise Invalid(
        f"This checkpoint has no tensors under {keys}, where the weights are looked for. It has {there or 'nothing'}.",
        code="no_weights",
    )


def _has_tensors(values: Mapping[str, Any]) -> bool:
    return any(type(value) is Tensor for value in values.values())


def _words(value: Any) -> str:
    if type(value) is dict:
        return f"{sum(type(one) is Tensor for one in value.values())} tensors" if _has_tensors(value) else "a dict"
    return "a tensor" if type(value) is Tensor else "a list" if type(value) in (list, tuple) else "a value"


def _left_out(state: Mapping[str, Any]) -> list[str]:
    """What a module keeps among its weights that is no tensor: `_extra_state`. Raises `Invalid` for a tensor's kin."""
    others = [name for name, value in state.items() if type(value) is not Tensor]
    for name in others:
        value = state[name]
        if type(value) is Unknown and value.made_by.startswith(("torch._utils.", "torch._tensor.")):
            raise _no_form(name, f"made by {value.made_by}: sparse, quantized, on no device or of a class of its own")
    return others


def _laid_out(archive: Archive, tensors: Mapping[str, Tensor], left_out: list[str], most_bytes: int) -> Export:
    known = {name: _dtype(name, tensor) for name, tensor in tensors.items()}
    # As safetensors itself writes them: the widest first, so that each begins where its elements can be addressed.
    order = sorted(tensors, key=lambda name: (-known[name][1], name))
    about = {"format": "pt"} | (
        {"left_out": ", ".join(left_out).encode("utf-8", "replace").decode()} if left_out else {}
    )
    header: dict[str, Any] = {"__metadata__": about}
    spans: list[tuple[str, int]] = []
    end = 0
    for name in order:
        tensor, (dtype, item_bytes) = tensors[name], known[name]
        size_bytes = math.prod(tensor.shape) * item_bytes
        if end + size_bytes > most_bytes:
            raise _no_form(name, f"one of those that make more than {EXPORT_TIMES_MAX} times the file's size together")
        header[name] = {"dtype": dtype, "shape": tensor.shape, "data_offsets": [end, end + size_bytes]}
        spans.append((name, end))
        end += size_bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _HEADER_ALIGNMENT)
    head = len(text).to_bytes(8, "little") + text
    pieces = [_piece(archive, name, tensors[name], known[name][1], len(head) + start) for name, start in spans]
    return Export(head, tuple(piece for piece in pieces if piece.size_bytes), len(head) + end)


def _dtype(name: str, tensor: Tensor) -> tuple[str, int]:
    """Safetensors' name for a tensor's dtype and the bytes of an element. Raises `Invalid`."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise _no_form(name, "a name that is no Unicode") from error
    if name == "__metadata__":
        raise _no_form(name, "a name that safetensors keeps for itself")
    kind = tensor.storage.kind.removeprefix("torch.").removesuffix("Storage")
    dtype = (tensor.dtype or "").removeprefix("torch.") or _STORAGES.get(kind, kind)
    if dtype not in _DTYPES:
        raise _no_form(name, f"of dtype {dtype[:60]}")
    return _DTYPES[dtype]


def _piece(archive: Archive, name: str, tensor: Tensor, item_bytes: int, start: int) -> Piece:
    count = math.prod(tensor.shape)
    if count == 0:
        return Piece(start, 0, 0, item_bytes, 0)
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True)) + 1
    record = f"data/{tensor.storage.key}"
    source = archive.start(record, (tensor.offset + reach) * item_bytes) + tensor.offset * item_bytes
    if _is_contiguous(tensor):
        return Piece(start, count * item_bytes, source, item_bytes, count * item_bytes)
    runs = count // max(tensor.shape)
    if max(reach, count) * item_bytes > STRIDED_BYTES_MAX or runs > RUNS_MAX:
        raise _no_form(name, "not contiguous, and too large to be put in order here; save it with .contiguous()")
    return Piece(start, count * item_bytes, source, item_bytes, reach * item_bytes, tensor.shape, tensor.strides)


def _is_contiguous(tensor: Tensor) -> bool:
    expected = 1
    for size, stride in zip(reversed(tensor.shape), reversed(tensor.strides), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def _in_order(piece: Piece, data: bytes) -> bytes:
    """A tensor's elements in their order, row by row. The longest dimension is copied at once, for each of the rest."""
    assert piece.strides is not None
    ordered = bytearray(piece.size_bytes)
    source = memoryview(data).cast(_FORMATS[piece.item_bytes])
    target = memoryview(ordered).cast(_FORMATS[piece.item_bytes])
    places, step = [], 1
    for size, stride in zip(reversed(piece.shape), reversed(piece.strides), strict=True):
        places.append((size, stride, step))
        step *= size
    longest = max(places)
    places.remove(longest)
    size, stride, step = longest
    for begin, into in _corners(places):
        if stride == 0:
            run = memoryview(source[begin : begin + 1].tobytes() * size).cast(_FORMATS[piece.item_bytes])
        else:
            run = source[begin : begin + (size - 1) * stride + 1 : stride]
        target[into : into + (size - 1) * step + 1 : step] = run
    return bytes(ordered)


def _corners(places: list[tuple[int, int, int]]) -> Iterator[tuple[int, int]]:
    """Where each run along the longest dimension begins, in the storage and in the tensor."""
    for indices in itertools.product(*(range(size) for size, _, _ in places)):
        begin = sum(index * stride for index, (_, stride, _) in zip(indices, places, strict=True))
        into = sum(index * step for index, (_, _, step) in zip(indices, places, strict=True))
        yield begin, into


def _no_form(name: str, why: str) -> Invalid:
    return Invalid(
        f"The weights cannot be exported as safetensors: {name[:100]!r} is {why}. Download the checkpoint instead.",
        code="weights_not_exportable",
    )
