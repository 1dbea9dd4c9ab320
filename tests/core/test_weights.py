"""Checkpoints of torch's as safetensors files, and files that only look like them."""

import io
import json
import os
import pickle
import random
import struct
import sys
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load
from torch import Tensor, nn

from core import torch_pickle, weights
from core.errors import Invalid
from core.torch_archive import Archive
from core.torch_pickle import Named, Unknown, read_pickle
from core.weights import Export, Weights


def saved(checkpoint: Any, tmp_path: Path, **options: Any) -> Path:
    path = tmp_path / "some.ckpt"
    torch.save(checkpoint, path, **options)
    return path


def opened(path: Path) -> Weights:
    file = path.open("rb", buffering=0)
    return Weights(file, Export.of(file.fileno(), path.stat().st_size))


def exported(path: Path) -> bytes:
    made = opened(path)
    data = made.read(0, made.export.size_bytes)
    made.close()
    return data


def refused(path: Path) -> Invalid:
    with pytest.raises(Invalid) as caught:
        exported(path)
    return caught.value


def same(left: Tensor, right: Tensor) -> bool:
    """Whether two tensors have the same bits, for dtypes too that torch cannot compare."""
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    bits = [one.detach().contiguous().reshape(-1).view(torch.uint8) for one in (left, right) if one.numel()]
    return not bits or torch.equal(*bits)


def archive(tmp_path: Path, pickled: bytes, **records: bytes) -> Path:
    path = tmp_path / "made.ckpt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        for name, data in ({"data.pkl": pickled} | records).items():
            file.writestr(f"archive/{name.replace('__', '/')}", data)
    return path


NUMBERS = torch.arange(60.0).reshape(3, 4, 5)
KINDS = {
    "plain": NUMBERS,
    "parameter": nn.Parameter(torch.randn(3)),
    "scalar": torch.tensor(3),
    "empty": torch.zeros(0, 3),
    "transposed": NUMBERS.permute(2, 0, 1),
    "sliced": NUMBERS[1:, ::2, 1],
    "view": NUMBERS[1],
    "expanded": torch.ones(1).expand(3, 2),
    "channels_last": torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last),
    "half": torch.randn(5).half(),
    "bfloat16": torch.randn(3, 3).bfloat16().t(),
    "double": torch.randn(2).double(),
    "flags": torch.tensor([True, False, True]),
    "bytes": torch.arange(5).byte(),
    "int16": torch.arange(5).short(),
    "uint16": torch.arange(5).to(torch.uint16),
    "uint64": torch.arange(5).to(torch.uint64),
    "e4m3": torch.randn(4).to(torch.float8_e4m3fn),
    "e5m2": torch.randn(4, 2).to(torch.float8_e5m2).t(),
    "größe.名": torch.zeros(2),
}


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_every_tensor_is_what_torch_loads(tmp_path: Path, protocol: int) -> None:
    path = saved({"epoch": 3, "state_dict": KINDS}, tmp_path, pickle_protocol=protocol)
    read = load(exported(path))
    expected = torch.load(path, weights_only=False)["state_dict"]
    assert set(read) == set(KINDS)
    assert [name for name in KINDS if not same(read[name], expected[name])] == []


def test_any_part_of_the_file_is_that_part_of_it(tmp_path: Path) -> None:
    made = opened(saved({"state_dict": KINDS}, tmp_path))
    size = made.export.size_bytes
    whole = made.read(0, size)
    dice = random.Random(5)
    spans = [(dice.randrange(size + 5), dice.randrange(size)) for _ in range(300)]
    assert len(whole) == size
    assert [span for span in spans if made.read(*span) != whole[span[0] : sum(span)]] == []


def test_a_modules_weights_are_loaded_strictly_tied_ones_too(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(7, 3)
            self.head = nn.Linear(3, 7)
            self.head.weight = self.embedding.weight

    module, other = Tied(), Tied()
    other.load_state_dict(load(exported(saved({"state_dict": module.state_dict()}, tmp_path))), strict=True)
    assert torch.equal(other.embedding.weight, module.embedding.weight)
    assert other.head.weight is other.embedding.weight


def test_each_tensor_begins_where_its_elements_can_be_addressed(tmp_path: Path) -> None:
    made = opened(saved({"state_dict": KINDS}, tmp_path))
    assert [piece for piece in made.export.pieces if piece.start % piece.item_bytes] == []


def test_the_header_is_aligned_and_says_what_was_left_out(tmp_path: Path) -> None:
    data = exported(saved({"state_dict": {"w": torch.ones(2), "_extra_state": {"a": (1, 2)}}}, tmp_path))
    size = int.from_bytes(data[:8], "little")
    assert size % 8 == 0
    assert json.loads(data[8 : 8 + size])["__metadata__"] == {"format": "pt", "left_out": "_extra_state"}


@pytest.mark.parametrize("layout", [{"model": {"w": NUMBERS}, "step": 3}, {"w": NUMBERS}])
def test_a_loops_own_checkpoint_has_its_weights_under_model_or_is_nothing_but_them(
    tmp_path: Path, layout: dict[str, Any]
) -> None:
    assert torch.equal(load(exported(saved(layout, tmp_path)))["w"], NUMBERS)


def test_where_no_weights_are_found_it_is_said_what_there_is(tmp_path: Path) -> None:
    layout = {"generator": {"w": NUMBERS}, "discriminator": {"w": NUMBERS, "b": NUMBERS}, "step": 3, "names": [1]}
    told = refused(saved(layout, tmp_path))
    assert told.code == "no_weights"
    assert "'generator' (1 tensors), 'discriminator' (2 tensors), 'step' (a value), 'names' (a list)" in told.detail


@pytest.mark.parametrize(
    ("tensor", "why"),
    [
        (torch.ones(2, dtype=torch.complex64), "complex64"),
        (torch.ones(2, 2).to_sparse(), "_rebuild_sparse_tensor"),
        (torch.ones(2, device="meta"), "_rebuild_meta_tensor_no_storage"),
        (torch.ones(2, dtype=torch.complex64).conj().imag, "_rebuild_tensor_v2"),  # negated
    ],
)
def test_what_safetensors_has_no_form_for_is_refused_by_name(tmp_path: Path, tensor: Tensor, why: str) -> None:
    told = refused(saved({"state_dict": {"fine": NUMBERS, "odd": tensor}}, tmp_path))
    assert told.code == "weights_not_exportable"
    assert "'odd'" in told.detail
    assert why in told.detail


def test_objects_of_the_users_own_are_passed_over(tmp_path: Path) -> None:
    class Odd(dict[str, int]):
        pass

    sys.modules[__name__].Odd = Odd  # type: ignore[attr-defined]
    Odd.__qualname__ = "Odd"
    odd = Odd(a=1)
    odd.more = {1, 2}  # type: ignore[attr-defined]
    path = saved({"hyper_parameters": {"a": odd, "b": Path("/x"), "c": {(1, 2): 3}}, "state_dict": KINDS}, tmp_path)
    assert set(load(exported(path))) == set(KINDS)


# Files that are made to harm whoever reads them


class Evil:
    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call[0], self.call[1:]


def test_nothing_that_a_pickle_names_is_imported_or_called(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    calls = [Evil(os.mkdir, str(mark)), Evil(eval, f"open({str(mark)!r}, 'w')"), Evil(__import__, "antigravity")]
    pickled = pickle.dumps({"state_dict": {"w": calls}, "more": calls})
    told = refused(archive(tmp_path, pickled))
    assert told.code == "no_weights"
    assert not mark.exists()
    assert "antigravity" not in sys.modules
    assert read_pickle(pickled)["more"] == [
        Unknown("posix.mkdir"),
        Unknown("builtins.eval"),
        Unknown("builtins.__import__"),
    ]


def test_stack_global_build_and_new_object_run_nothing() -> None:
    named = b"\x8c\x02os\x8c\x06system\x93"
    for call in (b"(\x8c\x04truetR.", b"\x8c\x04true\x85\x81.", b")}\x92.", b"}\x8c\x01ad}b0\x8c\x04true\x85R."):
        try:
            read = read_pickle(b"\x80\x04" + named + call)
        except Invalid:
            continue
        assert read in (Unknown("os.system"), Unknown("something that has no name"), Named("os.system"))


@pytest.mark.parametrize(
    ("pickled", "why"),
    [
        (b"", "damaged"),
        (b"\x80\x02}", "damaged"),
        (b"\x80\x02.", "damaged"),
        (b"\x80\x02t.", "no mark"),
        (b"\x80\x02\x85.", "damaged"),
        (b"\x80\x02X\xff\xff\xff\x7fabc", "cut short"),
        (b"\x80\x02\x8d" + b"\xff" * 8 + b"abc", "cut short"),
        (b"\x80\x02\x8b\xff\xff\xff\xff1", "integer of"),
        (b"\x80\x02j\xff\xff\xff\xff.", "damaged"),
        (b"\x80\x02X\x02\x00\x00\x00\xff\xfe.", "damaged"),
        (b"\x80\x02c" + b"a" * 5000, "name without an end"),
        (b"cos\nsystem\nI1\n.", "opcode 0x49"),
        (b"\x82\x01.", "opcode 0x82"),
        (b"\x80\x02K\x01Q.", "storage"),
    ],
)
def test_a_damaged_pickle_is_refused_with_the_reason(pickled: bytes, why: str) -> None:
    with pytest.raises(Invalid, match=why) as caught:
        read_pickle(pickled)
    assert caught.value.code == "checkpoint_unreadable"


def test_a_memo_index_of_four_billion_takes_no_memory() -> None:
    assert read_pickle(b"\x80\x02Nr\xff\xff\xff\xff0j\xff\xff\xff\xff.") is None


def test_tuples_in_tuples_are_neither_hashed_nor_walked() -> None:
    deep = b"\x80\x02}(" + b")" + b"\x85" * 50_000 + b"Nu."
    doubling = b"\x80\x02}(" + b")" + b"2\x86" * 60 + b"N" + b"u."
    for pickled in (deep, doubling):
        assert read_pickle(pickled) == {}
    nested = read_pickle(b"\x80\x02}X\x05\x00\x00\x00modelq\x00}h\x00" + b")" + b"\x85" * 50_000 + b"ss.")
    assert list(nested) == ["model"]


def test_numbers_that_collide_as_keys_take_no_time() -> None:
    modulus = 2**61 - 1  # of Python's hash of integers
    keys = b"".join(b"\x8a\x0a" + (i * modulus).to_bytes(10, "little", signed=True) + b"N" for i in range(20_000))
    began = time.process_time()
    assert read_pickle(b"\x80\x02}(" + keys + b"u.") == {}
    assert time.process_time() - began < 5


def test_a_pickle_is_read_for_a_limited_number_of_opcodes_and_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_pickle, "OPCODES_MAX", 1000)
    with pytest.raises(Invalid, match="more than 1000 opcodes"):
        read_pickle(b"\x80\x02" + b"N0" * 1000 + b"N.")
    monkeypatch.setattr(torch_pickle, "OPCODES_MAX", 10**9)
    monkeypatch.setattr(torch_pickle, "SECONDS_MAX", 0.0)
    with pytest.raises(Invalid, match="longer than 0 s"):
        read_pickle(b"\x80\x02" + b"N0" * 100_000 + b"N.")
    monkeypatch.setattr(torch_pickle, "PICKLE_BYTES_MAX", 3)
    with pytest.raises(Invalid, match="4 bytes"):
        read_pickle(b"\x80\x02N.")


def tensor_pickle(offset: Any, shape: Any, strides: Any, count: int = 4, key: str = "0") -> bytes:
    """A state dict with one float32 tensor, as told."""

    class Storage:
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return ("storage", torch.FloatStorage, key, "cpu", count) if isinstance(value, Storage) else None

    text = io.BytesIO()
    rebuild = torch._utils._rebuild_tensor_v2
    value = Evil(rebuild, Storage(), offset, shape, strides, False, {})
    Pickler(text, 2).dump({"state_dict": {"fine": Evil(rebuild, Storage(), 0, (1,), (1,), False, {}), "w": value}})
    return text.getvalue()


@pytest.mark.parametrize(
    ("offset", "shape", "strides", "code"),
    [
        (0, (5,), (1,), "checkpoint_unreadable"),
        (3, (2,), (1,), "checkpoint_unreadable"),
        (2**40, (1,), (1,), "checkpoint_unreadable"),
        (0, (2, 2), (2**40, 1), "checkpoint_unreadable"),
        (0, (2**62, 2**62), (1, 1), "weights_not_exportable"),
        (0, (2**40,), (0,), "weights_not_exportable"),
        (-1, (1,), (1,), "weights_not_exportable"),
        (0, (-1,), (1,), "weights_not_exportable"),
        (0, (2,), (1, 1), "weights_not_exportable"),
        (0, [2], (1,), "weights_not_exportable"),
        (True, (2,), (1,), "weights_not_exportable"),
        (0, (1,) * 65, (1,) * 65, "weights_not_exportable"),
    ],
)
def test_a_tensor_that_reaches_beyond_its_storage_or_swells_is_refused(
    tmp_path: Path, offset: Any, shape: Any, strides: Any, code: str
) -> None:
    told = refused(archive(tmp_path, tensor_pickle(offset, shape, strides), data__0=bytes(16)))
    assert told.code == code


def test_a_storage_that_is_missing_or_shorter_than_it_says_is_refused(tmp_path: Path) -> None:
    assert refused(archive(tmp_path, tensor_pickle(0, (4,), (1,)), data__0=bytes(12))).code == "checkpoint_unreadable"
    missing = archive(tmp_path, tensor_pickle(0, (4,), (1,), key="../../etc"), data__0=bytes(16))
    assert refused(missing).code == "checkpoint_unreadable"


def test_what_is_put_in_order_in_memory_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved({"state_dict": {"w": NUMBERS.permute(2, 0, 1)}}, tmp_path)
    monkeypatch.setattr(weights, "STRIDED_BYTES_MAX", 100)
    assert ".contiguous()" in refused(path).detail
    monkeypatch.setattr(weights, "STRIDED_BYTES_MAX", 10**6)
    monkeypatch.setattr(weights, "RUNS_MAX", 3)
    assert ".contiguous()" in refused(path).detail


@pytest.mark.parametrize("data", [b"", b"x", b"PK\5\6", b"PK\5\6" + bytes(18), b"\x80\x02." * 1000])
def test_a_file_that_is_no_archive_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "some.ckpt"
    path.write_bytes(data)
    assert refused(path).code == "checkpoint_unreadable"


def test_an_archive_of_another_making_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "some.ckpt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", b"\x80\x02}." * 100)
    assert "not stored as torch stores it" in refused(path).detail
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", b"\x80\x02}.")
        file.writestr("b/data.pkl", b"\x80\x02}.")
    assert "no record `data.pkl`" in refused(path).detail
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", b"\x80\x02}.")
        with pytest.warns(UserWarning, match="Duplicate"):
            file.writestr("a/data.pkl", b"\x80\x02}.")
    assert "two records" in refused(path).detail
    assert "big-endian" in refused(archive(tmp_path, tensor_pickle(0, (4,), (1,)), byteorder=b"big")).detail


def test_a_checkpoint_of_which_any_byte_was_changed_is_read_or_refused_and_nothing_else(tmp_path: Path) -> None:
    path = saved({"state_dict": {"w": NUMBERS, "t": NUMBERS.mT}}, tmp_path)
    whole = path.read_bytes()
    dice = random.Random(3)
    for _ in range(300):
        damaged = bytearray(whole[: dice.choice([len(whole), len(whole), dice.randrange(len(whole))])])
        for _ in range(dice.randrange(4) if damaged else 0):
            damaged[dice.randrange(len(damaged))] = dice.randrange(256)
        path.write_bytes(damaged)
        try:
            load_header = exported(path)[:8]
        except Invalid:
            continue
        assert len(load_header) == 8


def test_sizes_too_large_for_their_fields_are_read_from_the_zip64_part(tmp_path: Path) -> None:
    path = saved({"state_dict": {"w": NUMBERS}}, tmp_path)
    expected = exported(path)
    data = path.read_bytes()
    end = data.rfind(b"PK\5\6")
    count, size, start = struct.unpack_from("<10xHLL", data, end)
    listed, at = b"", start
    for _ in range(count):
        fields = list(struct.unpack_from("<4s6H3L5H2L", data, at))
        name = data[at + 46 : at + 46 + fields[10]]
        wide = struct.pack("<HHQQQ", 1, 24, fields[9], fields[8], fields[16])
        at += 46 + fields[10] + fields[11] + fields[12]
        fields[8] = fields[9] = fields[16] = 2**32 - 1
        fields[11], fields[12] = len(wide), 0
        listed += struct.pack("<4s6H3L5H2L", *fields) + name + wide
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, len(listed), start)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, start + len(listed), 1)
    tail = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 2**16 - 1, 2**16 - 1, 2**32 - 1, 2**32 - 1, 0)
    path.write_bytes(data[:start] + listed + end64 + locator + tail)
    assert size > 0
    assert exported(path) == expected
    assert zipfile.ZipFile(path).testzip() is None


def test_the_pieces_of_one_file_are_read_from_many_threads(tmp_path: Path) -> None:
    made = opened(saved({"state_dict": KINDS}, tmp_path))
    size = made.export.size_bytes
    whole = made.read(0, size)
    wrong: list[int] = []

    def read() -> None:
        wrong.extend(offset for offset in range(0, size, 97) if made.read(offset, 97) != whole[offset : offset + 97])

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_an_archive_tells_what_it_holds(tmp_path: Path) -> None:
    path = saved({"state_dict": {"w": NUMBERS}}, tmp_path)
    with path.open("rb") as file:
        read = Archive(file.fileno(), path.stat().st_size)
        assert read.read("byteorder", 16) == sys.byteorder.encode()
        assert read.read("no such", 16) is None
        with pytest.raises(Invalid, match="at most 3 are read"):
            read.read("byteorder", 3)
