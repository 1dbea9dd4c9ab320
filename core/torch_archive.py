"""The zip archive that `torch.save` writes, read without torch: where in the file each of its records lies.

Only what torch writes is read: records stored without compression, in one piece (APPNOTE.TXT 6.3, 4.3 and 4.5). The
file is a user's, so nothing in it is taken on trust.
"""

import os
import struct
from dataclasses import dataclass

from core.errors import Invalid

RECORDS_MAX = 200_000
"""Most records of an archive; torch writes one for each storage."""
DIRECTORY_BYTES_MAX = 32 * 2**20
"""Largest list of records."""

_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_RECORD = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_COMMENT_BYTES_MAX = 2**16 - 1
_ELSEWHERE, _ELSEWHERE_COUNT = 2**32 - 1, 2**16 - 1
"""Stand where a number is too large for its field: it is in the zip64 part."""
_STORED, _ENCRYPTED = 0, 1


@dataclass(frozen=True, slots=True)
class Record:
    """A record of the archive: where its header lies, and how many bytes it has."""

    header: int
    size_bytes: int


class Archive:
    """The records of a file, by name without the folder that all of them lie in."""

    def __init__(self, descriptor: int, size_bytes: int) -> None:
        """Read the list of records. Raises `Invalid` for a file that torch did not write, and `OSError`."""
        self._descriptor = descriptor
        self._size_bytes = size_bytes
        found = self._records(*self._directory())
        folders = {name.removesuffix("data.pkl") for name in found if name.endswith("/data.pkl")}
        if len(folders) != 1:
            raise unreadable("it has no record `data.pkl`, as torch.save writes one")
        folder = folders.pop()
        self._found = {name.removeprefix(folder): one for name, one in found.items() if name.startswith(folder)}

    def read(self, name: str, most_bytes: int) -> bytes | None:
        """The bytes of a record; None: there is none. Raises `Invalid` where there are more than so many."""
        record = self._found.get(name)
        if record is None:
            return None
        if record.size_bytes > most_bytes:
            raise unreadable(f"its record {name} has {record.size_bytes} bytes; at most {most_bytes} are read")
        return self.bytes_at(self.start(name, record.size_bytes), record.size_bytes)

    def size_bytes(self, name: str) -> int | None:
        """The size of a record; None: there is none."""
        record = self._found.get(name)
        return None if record is None else record.size_bytes

    def start(self, name: str, needed_bytes: int) -> int:
        """Where in the file the bytes of a record begin. Raises `Invalid` where it has not as many as are needed."""
        record = self._found.get(name)
        if record is None or record.size_bytes < needed_bytes:
            raise unreadable(f"its record {name[:100]} is missing, or too short")
        mark, _, _, _, _, _, _, _, _, name_bytes, extra_bytes = _LOCAL.unpack(self.bytes_at(record.header, _LOCAL.size))
        start: int = record.header + _LOCAL.size + name_bytes + extra_bytes
        if mark != b"PK\3\4" or start + record.size_bytes > self._size_bytes:
            raise unreadable(f"its record {name[:100]} does not lie where the archive says")
        return start

    def bytes_at(self, offset: int, size_bytes: int) -> bytes:
        """Bytes of the file. Raises `Invalid` where they lie outside it."""
        if not 0 <= offset <= offset + size_bytes <= self._size_bytes:
            raise unreadable("it speaks of bytes that it does not have")
        return read_at(self._descriptor, offset, size_bytes)

    def _directory(self) -> tuple[int, int, int]:
        """Where the list of records begins, its bytes, and how many there are."""
        tail_bytes = min(self._size_bytes, _END.size + _COMMENT_BYTES_MAX)
        tail = self.bytes_at(self._size_bytes - tail_bytes, tail_bytes)
        found = tail.rfind(b"PK\5\6")
        if found < 0 or found + _END.size > len(tail):
            raise unreadable("it is no zip archive, as torch.save has written since torch 1.6")
        _, disk, _, _, count, listed_bytes, start, _ = _END.unpack_from(tail, found)
        if _ELSEWHERE in (listed_bytes, start) or count == _ELSEWHERE_COUNT:
            locator = found - _END64_LOCATOR.size
            if locator < 0 or tail[locator : locator + 4] != b"PK\6\7":
                raise unreadable("the end of its list of records is missing")
            _, disk, at, _ = _END64_LOCATOR.unpack_from(tail, locator)
            mark, _, _, _, disk, _, _, count, listed_bytes, start = _END64.unpack(self.bytes_at(at, _END64.size))
            if mark != b"PK\6\6":
                raise unreadable("the end of its list of records is missing")
        if disk or count > RECORDS_MAX or listed_bytes > DIRECTORY_BYTES_MAX:
            raise unreadable(f"it lists {count} records in {listed_bytes} bytes, which is more than is read")
        return start, listed_bytes, count

    def _records(self, start: int, listed_bytes: int, count: int) -> dict[str, Record]:
        listed = self.bytes_at(start, listed_bytes)
        found: dict[str, Record] = {}
        at = 0
        for _ in range(count):
            if at + _RECORD.size > len(listed):
                raise unreadable("its list of records is cut short")
            fields = _RECORD.unpack_from(listed, at)
            mark, flags, method, packed, size_bytes, header = (fields[i] for i in (0, 3, 4, 8, 9, 16))
            name_end = at + _RECORD.size + fields[10]
            extra_end = name_end + fields[11]
            name = listed[at + _RECORD.size : name_end].decode("utf-8", "replace")
            size_bytes, packed, header = _large(listed[name_end:extra_end], size_bytes, packed, header)
            if mark != b"PK\1\2" or method != _STORED or flags & _ENCRYPTED or packed != size_bytes:
                raise unreadable(f"its record {name[:100]!r} is not stored as torch stores it")
            if name in found:
                raise unreadable(f"it has two records {name[:100]!r}")
            found[name] = Record(header, size_bytes)
            at = extra_end + fields[12]
        return found


def unreadable(why: str) -> Invalid:
    """The refusal of a file that is no checkpoint of torch's, or not one that is read here."""
    return Invalid(f"The weights cannot be read from this checkpoint: {why}.", code="checkpoint_unreadable")


def read_at(descriptor: int, offset: int, size_bytes: int) -> bytes:
    """Exactly so many bytes of a file. Raises `OSError` where it has become shorter."""
    pieces = []
    while size_bytes > 0:
        piece = os.pread(descriptor, size_bytes, offset)
        if not piece:
            raise OSError(f"the file ended at byte {offset}, {size_bytes} bytes too early")
        pieces.append(piece)
        offset += len(piece)
        size_bytes -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _large(extra: bytes, *numbers: int) -> list[int]:
    """The numbers, those read from the zip64 part that were too large for their fields."""
    at, wide = 0, b""
    while at + 4 <= len(extra):
        kind, size = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            wide = extra[at + 4 : at + 4 + size]
        at += 4 + size
    read = []
    for number in numbers:
        if number == _ELSEWHERE:
            if len(wide) < 8:
                raise unreadable("a size in its list of records is missing")
            number, wide = int.from_bytes(wide[:8], "little"), wide[8:]
        read.append(number)
    return read
