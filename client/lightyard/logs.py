"""Reading a job's log from an offset on, and cutting it into lines."""

import codecs
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from lightyard.records import Job

# Returns the log's bytes from an offset on, as many as the service gives at once; none at the log's end.
ReadLog = Callable[[int], bytes]

# The longest line that is held back until it ends; a progress bar may draw for hours on one.
LINE_MAX_CHARS = 2**20


def read_all(read: ReadLog) -> Iterator[bytes]:
    """Yield the log as far as it goes."""
    offset = 0
    while chunk := read(offset):
        yield chunk
        offset += len(chunk)


def read_following(job: Job, read: ReadLog, next_job: Callable[[Job], Job]) -> Iterator[bytes]:
    """Yield the log as it grows, until the job has ended; an empty chunk where there is no more for now.

    `next_job` returns the job anew, after a while or a change: it sets the pace.
    """
    offset = 0
    while True:
        chunk = read(offset)
        offset += len(chunk)
        yield chunk
        if chunk:
            continue
        # Only an empty answer that was asked for after the job's end is the end of its log.
        if job.ended:
            return
        job = next_job(job)


def lines(chunks: Iterable[bytes], tail: int | None = None) -> Iterator[str]:
    """Cut chunks into lines, without their ends; with `tail`, only so many of those before the first empty chunk.

    Bytes that are not UTF-8 become U+FFFD.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    held: deque[str] | None = None if tail is None else deque(maxlen=tail)
    rest = ""
    for chunk in chunks:
        *whole, rest = (rest + decoder.decode(chunk)).split("\n")
        if len(rest) > LINE_MAX_CHARS:
            whole.append(rest)
            rest = ""
        if held is None:
            yield from whole
            continue
        held.extend(whole)
        if not chunk:
            yield from held
            held = None
    rest += decoder.decode(b"", final=True)
    if held is not None:
        held.extend([rest] if rest else [])
        yield from held
    elif rest:
        yield rest
