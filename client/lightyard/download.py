"""Fetching a checkpoint: resumed where it broke off, verified, and there whole or not at all."""

import base64
import contextlib
import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote, urljoin

import httpx

from lightyard.errors import ApiError, BadAnswerError, DownloadError, LightyardError, UnreachableError
from lightyard.retry import Backoff
from lightyard.transport import Transport, refused

CHUNK_BYTES = 2**20
READ_SECONDS = 60.0
WEIGHTS = "weights"

# What the caller is told while it goes on: bytes there so far, and bytes in all.
OnProgress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Content:
    """A checkpoint's file as the service lists it: what a download must turn out to be.

    `part` is what is fetched of it: its `content`, or its `weights` as a safetensors file. Of a very large one of
    those no sha256 is known before it has been made.
    """

    checkpoint_id: str
    size_bytes: int
    sha256: str | None
    part: str = "content"
    etag: str | None = None

    @property
    def filename(self) -> str:
        """What the file is called where nobody says."""
        return f"{self.checkpoint_id}.{'safetensors' if self.part == WEIGHTS else 'ckpt'}"


def weights_of_first_byte(checkpoint_id: str, answer: httpx.Response) -> Content:
    """Read size, ETag and, where it is told, sha256 from the answer to a GET of the first byte of some weights.

    Of a HEAD a refusal would have no body that says why. Raises BadAnswerError when size or ETag are missing.
    """
    span = re.fullmatch(r"bytes 0-0/(\d+)", answer.headers.get("Content-Range", ""))
    etag = answer.headers.get("ETag", "")
    if answer.status_code != 206 or span is None or not etag.startswith('"'):
        raise BadAnswerError(f"the service tells no size and ETag for the weights of {checkpoint_id}")
    return Content(checkpoint_id, int(span[1]), _in_digest(answer), WEIGHTS, etag)


def content_of_head(checkpoint_id: str, answer: httpx.Response) -> Content:
    """Read size and sha256 from the answer to a HEAD of a checkpoint's content.

    The sha256 is the `Repr-Digest` (RFC 9530), or else the `ETag`. Raises BadAnswerError when there is neither.
    """
    size = answer.headers.get("Content-Length", "")
    in_etag = re.fullmatch(r'"([0-9a-f]{64})"', answer.headers.get("ETag", ""))
    sha256 = _in_digest(answer) or (in_etag[1] if in_etag else None)
    if answer.status_code != 200 or not size.isdecimal() or sha256 is None:
        raise BadAnswerError(f"the service tells no size and sha256 for {checkpoint_id}; name its job instead")
    return Content(checkpoint_id, int(size), sha256)


def _in_digest(answer: httpx.Response) -> str | None:
    found = re.search(r"\bsha-256=:([A-Za-z0-9+/=]+):", answer.headers.get("Repr-Digest", ""))
    return base64.b64decode(found[1]).hex() if found else None


class Download:
    """One checkpoint on its way to one file.

    What has arrived lies in `NAME.part` beside the target, so a broken download, even of an earlier process,
    goes on where it stopped. The target appears by a rename, once size and sha256 are right.
    """

    def __init__(self, transport: Transport, content: Content, target: Path, on_progress: OnProgress) -> None:
        self._transport = transport
        self._content = content
        self._target = target
        self._part = target.with_name(target.name + ".part")
        self._on_progress = on_progress
        self._hash = hashlib.sha256()
        self._done_bytes = 0

    def run(self) -> Path:
        """Fetch the file and return its path; one that is already there and right is not fetched again.

        Raises DownloadError when it arrives damaged twice, UnreachableError or ApiError when the service is gone
        for longer than the retry budget (the `.part` stays, for the next try), OSError when it cannot be written.
        """
        if self._is_there():
            self._on_progress(self._content.size_bytes, self._content.size_bytes)
            return self._target
        for _ in range(2):
            self._fetch()
            if self._done_bytes == self._content.size_bytes and self._content.sha256 in (None, self._hash.hexdigest()):
                self._publish()
                return self._target
            self._part.unlink()
        raise DownloadError(
            f"{self._content.checkpoint_id} arrived damaged twice: {self._done_bytes} bytes with sha256 "
            f"{self._hash.hexdigest()}, listed are {self._content.size_bytes} with {self._content.sha256 or 'none'}"
        )

    def _is_there(self) -> bool:
        try:
            if self._content.sha256 is None or self._target.stat().st_size != self._content.size_bytes:
                return False
        except FileNotFoundError:
            return False
        with self._target.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == self._content.sha256

    def _fetch(self) -> None:
        """Bring the part to its full length, through as many connections as it takes."""
        # Opened to append, so that it is made when missing and kept when there.
        with self._part.open("a+b") as file:
            self._take_up(file)
            backoff = Backoff(self._transport.retry)
            while self._done_bytes < self._content.size_bytes:
                before = self._done_bytes
                failure: LightyardError = UnreachableError(f"{self._transport.address.url} ended the download early")
                try:
                    self._receive(file)
                except httpx.TransportError as error:
                    failure = self._transport.unreachable(error)
                except ApiError as error:
                    failure = error
                if self._done_bytes > before:
                    backoff.reset()
                if self._done_bytes < self._content.size_bytes:
                    self._transport.pause(backoff, failure)
            file.flush()
            os.fsync(file.fileno())

    def _take_up(self, file: BinaryIO) -> None:
        """Count and hash what an earlier download has left, where it can be told in the end whether it belongs here."""
        self._start_over(file if self._content.sha256 is None else None)
        file.seek(0)
        while chunk := file.read(CHUNK_BYTES):
            self._hash.update(chunk)
            self._done_bytes += len(chunk)
        if self._done_bytes > self._content.size_bytes:
            self._start_over(file)

    def _start_over(self, file: BinaryIO | None) -> None:
        if file is not None:
            file.truncate(0)
        self._hash = hashlib.sha256()
        self._done_bytes = 0

    def _receive(self, file: BinaryIO) -> None:
        """Append what one connection brings.

        Raises `httpx.TransportError` when it breaks, ApiError when the service refuses.
        """
        path = f"/v1/checkpoints/{quote(self._content.checkpoint_id, safe='')}/{self._content.part}"
        # Compression would make byte ranges mean something else than the file's bytes.
        headers = {"Accept-Encoding": "identity"}
        if self._done_bytes:
            headers |= {
                "Range": f"bytes={self._done_bytes}-",
                "If-Range": self._content.etag or f'"{self._content.sha256}"',
            }
        with self._transport.stream(path, headers, READ_SECONDS) as response:
            if not response.has_redirect_location:
                self._append(response, file)
                return
            elsewhere = urljoin(str(response.url), response.headers["Location"])
        # An object store has an ETag of its own making, so If-Range would never match there. A checkpoint's bytes
        # never change, and the sha256 at the end has the last word.
        headers.pop("If-Range", None)
        with self._transport.stream(elsewhere, headers, READ_SECONDS) as response:
            self._append(response, file)

    def _append(self, response: httpx.Response, file: BinaryIO) -> None:
        if response.status_code == 416:
            self._start_over(file)
            return
        if response.status_code >= 400:
            response.read()
            raise refused(response)
        if self._done_bytes and not self._continues(response):
            self._start_over(file)
        # As they come: a chunk size would hold back, and lose, up to a chunk where the connection breaks.
        for chunk in response.iter_raw():
            file.write(chunk)
            self._hash.update(chunk)
            self._done_bytes += len(chunk)
            self._on_progress(min(self._done_bytes, self._content.size_bytes), self._content.size_bytes)
            if self._done_bytes > self._content.size_bytes:
                return

    def _continues(self, response: httpx.Response) -> bool:
        """Whether the answer begins just behind what is there already."""
        start = f"bytes {self._done_bytes}-"
        return response.status_code == 206 and response.headers.get("Content-Range", "").startswith(start)

    def _publish(self) -> None:
        self._part.replace(self._target)
        # The rename itself is on disk only when the folder is; where folders cannot be opened, that is all there is.
        with contextlib.suppress(OSError):
            folder = os.open(self._target.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
