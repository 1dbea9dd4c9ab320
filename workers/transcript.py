"""A trainer's log, read piece by piece up to its limit."""

from dataclasses import dataclass
from pathlib import Path

from core.logs import CHUNK_BYTES


@dataclass(frozen=True, slots=True)
class Piece:
    """What follows byte `offset` of the log; `told` may be longer, to say that the rest is dropped."""

    offset: int
    size_bytes: int
    told: bytes


class Transcript:
    """The log from byte `offset` on; what lies behind `limit_bytes` is dropped, and the last piece says so."""

    def __init__(self, path: Path, offset: int, limit_bytes: int) -> None:
        self._path = path
        self._offset = offset
        self._limit_bytes = limit_bytes

    def waiting_bytes(self) -> int:
        """How much there is to read on; none of a log that the run removed."""
        try:
            size = self._path.stat().st_size
        except FileNotFoundError:
            return 0
        return max(0, min(size, self._limit_bytes) - self._offset)

    def read(self) -> Piece:
        """The next piece: the same again, until told that it is done with. Raises `OSError`."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read(min(CHUNK_BYTES, self._limit_bytes - self._offset))
        told = data
        if self._offset + len(data) >= self._limit_bytes:
            told += f"\n[lightyard: this log is longer than {self._limit_bytes} bytes; the rest is dropped]\n".encode()
        return Piece(self._offset, len(data), told)

    def done(self, piece: Piece) -> None:
        """Go on behind a piece."""
        self._offset += piece.size_bytes
