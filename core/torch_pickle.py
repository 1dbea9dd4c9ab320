"""The pickle in a checkpoint of torch's, read without torch and without running anything that it names.

Python's own unpickler imports and calls what a file tells it to. This one is a machine of its own for the opcodes that
pickle's protocols 2 to 5 write (`pickletools` has them all): plain values become plain values, what torch writes for a
tensor becomes a `Tensor`, a description, and all else that is named, called or built becomes an `Unknown`, which does
nothing. How long it may run and how much it may keep is limited, for the file is a user's.
"""

import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from core.torch_archive import unreadable

PICKLE_BYTES_MAX = 32 * 2**20
OPCODES_MAX = 3_000_000
"""A tensor takes about fifty, and Adam keeps three for each weight: ten thousand weights and more."""
SECONDS_MAX = 20.0
INTEGER_BYTES_MAX = 255
NAME_BYTES_MAX = 1024
"""Longest name of a module or a class."""
LOOK_EVERY = 2**16
"""After so many opcodes the clock is looked at."""


@dataclass(frozen=True, slots=True)
class Named:
    """A class or function that the pickle names; nobody looks for it."""

    path: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """What was made by calling something that is not called here."""

    made_by: str


@dataclass(frozen=True, slots=True)
class Storage:
    """Some elements in a record of their own. `kind` is torch's name for the storage, `count` of elements."""

    kind: str
    key: str
    count: int


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor as it was saved: a view of a storage. `dtype` is torch's name for it where the storage has none."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str | None = None


class _Mark:
    """Where a run of values begins on the stack."""


_MARK = _Mark()
_DIMENSIONS_MAX = 64
_INTEGER_MAX = 2**63 - 1
_DICTS = {"collections.OrderedDict", "collections.defaultdict", "builtins.dict", "__builtin__.dict"}
_SETS = {"builtins.set", "builtins.frozenset", "__builtin__.set", "__builtin__.frozenset"}


def read_pickle(data: bytes) -> Any:
    """What a pickle holds. Raises `Invalid` for one that is cut short, too large, or not of torch's making."""
    if len(data) > PICKLE_BYTES_MAX:
        raise unreadable(f"its pickle has {len(data)} bytes; at most {PICKLE_BYTES_MAX} are read")
    try:
        return _Machine(data).run()
    except (IndexError, struct.error, UnicodeDecodeError, KeyError) as error:
        raise unreadable(f"its pickle is damaged ({type(error).__name__})") from error


class _Machine:
    """A stack of values, a memo, and an opcode after the other."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._named: dict[str, Named] = {}

    def run(self) -> Any:
        """The value that stands on the stack when the pickle stops."""
        data, does = self._data, _DOES
        stop_by = time.monotonic() + SECONDS_MAX
        for count in range(OPCODES_MAX):
            opcode = data[self._at]
            self._at += 1
            if opcode == _STOP:
                return self._stack.pop()
            do = does[opcode]
            if do is None:
                raise unreadable(f"its pickle has an opcode {opcode:#04x}, which torch does not write")
            do(self)
            if count % LOOK_EVERY == 0 and time.monotonic() > stop_by:
                raise unreadable(f"its pickle takes longer than {SECONDS_MAX:g} s to read")
        raise unreadable(f"its pickle has more than {OPCODES_MAX} opcodes")

    # What the opcodes' arguments are read with

    def _take(self, size_bytes: int) -> bytes:
        end = self._at + size_bytes
        if end > len(self._data):
            raise unreadable("its pickle is cut short")
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def _number(self, size_bytes: int) -> int:
        return int.from_bytes(self._take(size_bytes), "little")

    def _line(self) -> str:
        end = self._data.find(b"\n", self._at, self._at + NAME_BYTES_MAX)
        if end < 0:
            raise unreadable("its pickle has a name without an end")
        line = self._data[self._at : end].decode()
        self._at = end + 1
        return line

    def _integer(self, size_bytes: int) -> int:
        if size_bytes > INTEGER_BYTES_MAX:
            raise unreadable(f"its pickle has an integer of {size_bytes} bytes")
        return int.from_bytes(self._take(size_bytes), "little", signed=True)

    def _text(self, size_bytes: int) -> str:
        return self._take(size_bytes).decode("utf-8", "surrogatepass")

    def _since_mark(self) -> list[Any]:
        stack = self._stack
        for start in range(len(stack) - 1, -1, -1):
            if stack[start] is _MARK:
                taken = stack[start + 1 :]
                del stack[start:]
                return taken
        raise unreadable("its pickle is damaged (no mark)")

    # Opcodes

    def push(self, value: Any) -> None:
        """Any opcode that makes a value."""
        self._stack.append(value)

    def name(self, module: Any, qualname: Any) -> None:
        """GLOBAL and STACK_GLOBAL: a class or function is named, not imported."""
        path = f"{module}.{qualname}" if type(module) is str and type(qualname) is str else "something without a name"
        self.push(self._named.setdefault(path[:300], Named(path[:300])))

    def put(self, index: int) -> None:
        """Remember the value on top."""
        self._memo[index] = self._stack[-1]

    def get(self, index: int) -> None:
        """Push what was remembered."""
        self.push(self._memo[index])

    def append(self, values: list[Any]) -> None:
        """Add to a list; what else is appended to stays as it is."""
        target = self._stack[-1]
        if type(target) is list:
            target.extend(values)

    def set_items(self, pairs: list[Any]) -> None:
        """Add to a dict. What is not under a name is left out: tuples and numbers can be made to hash for ever."""
        target = self._stack[-1]
        if type(target) is dict:
            target.update((key, value) for key, value in zip(pairs[::2], pairs[1::2], strict=False) if type(key) is str)

    def reduce(self) -> None:
        """REDUCE: a call, of which only torch's own for tensors and a few containers mean anything here."""
        arguments, function = self._stack.pop(), self._stack.pop()
        self.push(_called(function, arguments))

    def new_object(self, has_keywords: bool) -> None:
        """NEWOBJ and NEWOBJ_EX: an object of a class."""
        if has_keywords:
            self._stack.pop()
        arguments, made = self._stack.pop(), self._stack.pop()
        self.push(_called(made, arguments))

    def forget(self, instead: Any) -> None:
        """FROZENSET: values in whose place something else stands."""
        self._since_mark()
        self.push(instead)

    def tuple_of(self, count: int) -> None:
        """TUPLE1 to TUPLE3: the last values as a tuple."""
        values = [self._stack.pop() for _ in range(count)]
        self.push(tuple(reversed(values)))

    def persistent(self) -> None:
        """BINPERSID: a storage, as torch names it."""
        told = self._stack.pop()
        if type(told) is tuple and len(told) == 5 and type(told[0]) is str and told[0] == "storage":
            _, kind, key, _, count = told
            if type(kind) is Named and type(key) is str and type(count) is int and 0 <= count <= _INTEGER_MAX:
                self.push(Storage(kind.path, key, count))
                return
        raise unreadable("its pickle names a storage in a way that torch does not")


_STOP = ord(".")


def _called(function: Any, arguments: Any) -> Any:
    path = function.path if type(function) is Named else "something that has no name"
    if type(arguments) is not tuple:
        return Unknown(path)
    if path in _DICTS:
        return {}
    if path in _SETS:
        return Unknown(path)
    if path in ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"):
        return _tensor(path, arguments, None, arguments[6:7])
    if path == "torch._utils._rebuild_tensor_v3" and len(arguments) >= 7 and type(arguments[6]) is Named:
        return _tensor(path, arguments, arguments[6].path, arguments[7:8])
    if path in ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state") and arguments:
        return arguments[0]
    if path == "torch._tensor._rebuild_from_type_v2" and len(arguments) == 4:
        inner = _called(arguments[0], arguments[2]) if arguments[0] is not function else None
        return inner if type(inner) is Tensor else Unknown(path)
    return Unknown(path)


def _tensor(path: str, arguments: tuple[Any, ...], dtype: str | None, metadata: tuple[Any, ...]) -> Tensor | Unknown:
    """The tensor of a call; unknown where it is more than a plain view, as one that is to be negated when read."""
    if len(arguments) < 4 or any(metadata):
        return Unknown(path)
    storage, offset, shape, strides = arguments[:4]
    if type(storage) is not Storage or not _are_counts((offset,)) or type(shape) is not tuple:
        return Unknown(path)
    if type(strides) is not tuple or len(shape) != len(strides) or len(shape) > _DIMENSIONS_MAX:
        return Unknown(path)
    return Tensor(storage, offset, shape, strides, dtype) if _are_counts(shape + strides) else Unknown(path)


def _are_counts(numbers: tuple[Any, ...]) -> bool:
    return all(type(number) is int and 0 <= number <= _INTEGER_MAX for number in numbers)


_OPCODES: dict[bytes, Callable[[_Machine], Any]] = {
    b"\x80": lambda m: m._number(1),  # PROTO
    b"\x95": lambda m: m._number(8),  # FRAME
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"K": lambda m: m.push(m._number(1)),
    b"M": lambda m: m.push(m._number(2)),
    b"J": lambda m: m.push(m._integer(4)),
    b"\x8a": lambda m: m.push(m._integer(m._number(1))),  # LONG1
    b"\x8b": lambda m: m.push(m._integer(m._number(4))),  # LONG4
    b"G": lambda m: m.push(struct.unpack(">d", m._take(8))[0]),
    b"X": lambda m: m.push(m._text(m._number(4))),
    b"\x8c": lambda m: m.push(m._text(m._number(1))),  # SHORT_BINUNICODE
    b"\x8d": lambda m: m.push(m._text(m._number(8))),  # BINUNICODE8
    b"U": lambda m: m.push(m._take(m._number(1))),  # SHORT_BINSTRING
    b"T": lambda m: m.push(m._take(m._number(4))),  # BINSTRING
    b"C": lambda m: m.push(m._take(m._number(1))),  # SHORT_BINBYTES
    b"B": lambda m: m.push(m._take(m._number(4))),  # BINBYTES
    b"\x8e": lambda m: m.push(m._take(m._number(8))),  # BINBYTES8
    b"\x96": lambda m: m.push(m._take(m._number(8))),  # BYTEARRAY8
    b")": lambda m: m.push(()),
    b"]": lambda m: m.push([]),
    b"}": lambda m: m.push({}),
    b"\x8f": lambda m: m.push(Unknown("builtins.set")),  # EMPTY_SET
    b"(": lambda m: m.push(_MARK),
    b"t": lambda m: m.push(tuple(m._since_mark())),
    b"l": lambda m: m.push(m._since_mark()),
    b"\x85": lambda m: m.tuple_of(1),
    b"\x86": lambda m: m.tuple_of(2),
    b"\x87": lambda m: m.tuple_of(3),
    b"\x91": lambda m: m.forget(Unknown("builtins.frozenset")),  # FROZENSET
    b"\x90": lambda m: m._since_mark(),  # ADDITEMS
    b"a": lambda m: m.append([m._stack.pop()]),
    b"e": lambda m: m.append(m._since_mark()),
    b"s": lambda m: m.set_items([m._stack.pop(), m._stack.pop()][::-1]),
    b"u": lambda m: m.set_items(m._since_mark()),
    b"0": lambda m: m._stack.pop(),  # POP
    b"1": lambda m: m._since_mark(),  # POP_MARK
    b"2": lambda m: m.push(m._stack[-1]),  # DUP
    b"q": lambda m: m.put(m._number(1)),
    b"r": lambda m: m.put(m._number(4)),
    b"\x94": lambda m: m.put(len(m._memo)),  # MEMOIZE
    b"h": lambda m: m.get(m._number(1)),
    b"j": lambda m: m.get(m._number(4)),
    b"c": lambda m: m.name(m._line(), m._line()),  # GLOBAL
    b"\x93": lambda m: m.name(*[m._stack.pop(), m._stack.pop()][::-1]),  # STACK_GLOBAL
    b"R": _Machine.reduce,
    b"\x81": lambda m: m.new_object(has_keywords=False),
    b"\x92": lambda m: m.new_object(has_keywords=True),
    b"b": lambda m: m._stack.pop(),  # BUILD: what an object is to have in its attributes, which nobody asks for
    b"Q": _Machine.persistent,
}
_DOES: list[Callable[[_Machine], Any] | None] = [_OPCODES.get(bytes([number])) for number in range(256)]
