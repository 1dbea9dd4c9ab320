"""Files as responses: whole or a range (RFC 9110, 13 and 14), with their digest (RFC 9530)."""

import base64
import os
import re
from collections.abc import AsyncIterator
from typing import BinaryIO, Protocol
from urllib.parse import quote

import anyio
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from app import etag
from app.connection import ZERO_COPY
from app.head import is_head
from core.errors import LightyardError, NotFound, PreconditionFailed, RangeNotSatisfiable
from core.storage import Store

CHUNK_BYTES = 2**20
"""Six times faster than 64 KiB."""
ZERO_COPY_MIN_BYTES = 2**18
"""Less than that is read and sent at once with what else there is to do."""
_RANGE = re.compile(r"bytes=\s*(\d{0,1000})-(\d{0,1000})\s*", re.IGNORECASE | re.ASCII)
_MEDIA_TYPE = re.compile(r"[\w.+-]+/[\w.+-]+(; ?charset=[\w-]+)?", re.ASCII)


class OctetStream(Response):
    """Says in the OpenAPI document that a call answers with a file."""

    media_type = "application/octet-stream"


class Readable(Protocol):
    """A file, or what is read as one."""

    def read(self, offset: int, size_bytes: int) -> bytes:
        """So many bytes from there on, or fewer; none only behind the last."""

    def close(self) -> None:
        """Nothing is read any more."""


def content(
    request: Request, store: Store, key: str, *, sha256: str, size_bytes: int, media_type: str, filename: str
) -> Response:
    """The file under a key of the store, as the request asks for it.

    The file is opened here, so that it is sent to its end even if it is deleted meanwhile. Raises `NotFound` where it
    is not there any more, or not whole, `PreconditionFailed` for an `If-Match` of another file, and
    `RangeNotSatisfiable`.
    """
    file = StoredFile.open(store, key, size_bytes)
    return respond(
        request,
        file,
        tag=f'"{sha256}"',
        sha256=sha256,
        size_bytes=size_bytes,
        media_type=media_type,
        filename=filename,
    )


def respond(
    request: Request,
    body: Readable,
    *,
    tag: str,
    sha256: str | None,
    size_bytes: int,
    media_type: str,
    filename: str,
) -> Response:
    """What is read of `body`, as the request asks for it; `sha256` where it is known. It is closed in the end.

    Raises `PreconditionFailed` and `RangeNotSatisfiable`.
    """
    headers = {"ETag": tag}
    if sha256 is not None:
        headers["Repr-Digest"] = f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:"
    try:
        if_match = request.headers.get("if-match")
        if if_match is not None and not etag.matches_strongly(if_match, tag):
            raise PreconditionFailed(f"If-Match names another file; this one's ETag is {tag}.", headers={"ETag": tag})
        if etag.matches_weakly(request.headers.get("if-none-match"), tag):
            body.close()
            return Response(status_code=304, headers=headers)
        span = None if is_head(request) else _span(request, tag, size_bytes)
    except LightyardError:
        body.close()
        raise
    start, end = span or (0, size_bytes)
    headers |= {
        "Accept-Ranges": "bytes",
        "Content-Length": str(end - start),
        "Content-Type": media_type if _MEDIA_TYPE.fullmatch(media_type) else "application/octet-stream",
        "Content-Disposition": _disposition(filename),
        # What a run wrote is shown by no browser as if it were a page of ours.
        "X-Content-Type-Options": "nosniff",
    }
    if span is not None:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size_bytes}"
    if is_head(request):
        body.close()
        return Response(headers=headers)
    status = 206 if span else 200
    offered = request.scope.get("extensions") or {}
    if isinstance(body, StoredFile) and ZERO_COPY in offered and end - start >= ZERO_COPY_MIN_BYTES:
        return SentFile(body, start, end, status, headers)
    return StreamingResponse(_chunks(body, start, end), status, headers)


class StoredFile:
    """An open file of the store; it is closed at the latest when nobody holds it any more."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file

    @classmethod
    def open(cls, store: Store, key: str, size_bytes: int) -> "StoredFile":
        """The file of a key. Raises `NotFound` where it is not there any more, or not whole."""
        try:
            file = store.path(key).open("rb", buffering=0)
        except FileNotFoundError as error:
            raise NotFound("It is listed, but its file is gone from the store.", code="file_missing") from error
        found_bytes = os.fstat(file.fileno()).st_size
        if found_bytes != size_bytes:
            file.close()
            told = f"It is listed with {size_bytes} bytes, but its file has {found_bytes}."
            raise NotFound(told, code="file_damaged")
        return cls(file)

    def read(self, offset: int, size_bytes: int) -> bytes:
        """So many bytes from there on, or fewer."""
        return os.pread(self.file.fileno(), size_bytes, offset)

    def close(self) -> None:
        """Close it."""
        self.file.close()


class SentFile(Response):
    """A part of a file that the server itself reads and sends."""

    def __init__(self, body: StoredFile, start: int, end: int, status: int, headers: dict[str, str]) -> None:
        super().__init__(None, status, headers)
        self._body = body
        self._start = start
        self._end = end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, and close the file."""
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await send(
                {
                    "type": ZERO_COPY,
                    "file": self._body.file,
                    "offset": self._start,
                    "count": self._end - self._start,
                    "more_body": False,
                }
            )
        finally:
            self._body.close()


def _span(request: Request, tag: str, size_bytes: int) -> tuple[int, int] | None:
    """First byte and byte behind the last that `Range` asks for; None: the whole file.

    As RFC 9110 allows, several ranges and what is no valid range are answered with the whole file.
    """
    header = request.headers.get("range")
    condition = request.headers.get("if-range")
    match = _RANGE.fullmatch(header) if header else None
    if match is None or (condition is not None and condition.strip() != tag):
        return None
    first, last = match.groups()
    if not first and not last:
        return None
    if not first:
        start, end = max(0, size_bytes - int(last)), size_bytes
    elif last and int(last) < int(first):
        return None
    else:
        start, end = int(first), min(int(last) + 1 if last else size_bytes, size_bytes)
    if start >= end:
        raise RangeNotSatisfiable(
            f"The file has {size_bytes} bytes; {header} lies outside.",
            headers={"Content-Range": f"bytes */{size_bytes}"},
        )
    return start, end


def _disposition(filename: str) -> str:
    """RFC 6266: the name in ASCII, and as it is where that differs."""
    plain = re.sub(r'[^\x20-\x7e]|["\\%]', "_", filename)
    return f'attachment; filename="{plain}"' + (f"; filename*=UTF-8''{quote(filename)}" if plain != filename else "")


async def _chunks(body: Readable, start: int, end: int) -> AsyncIterator[bytes]:
    try:
        while start < end:
            data = await anyio.to_thread.run_sync(body.read, start, min(CHUNK_BYTES, end - start))
            if not data:  # only somebody who writes into the store by hand can do that
                raise RuntimeError(f"the file ended at byte {start}, before byte {end}")
            start += len(data)
            yield data
    finally:
        body.close()
