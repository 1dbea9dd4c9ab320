"""Logs of the service's own processes: events with keys, through structlog, to standard error."""

import contextlib
import json
import logging
import sys
import threading
from collections.abc import Callable
from typing import Any, TextIO

import orjson
import structlog

from core.settings import Settings


def configure(config: Settings) -> None:
    """Set up structlog, and let the standard library's loggers (Celery, uvicorn, Alembic) speak through it."""
    level = logging.getLevelNamesMapping()[config.log_level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer(serializer=_as_json)
        if config.log_format == "json"
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    )
    exceptions = [structlog.processors.format_exc_info] if config.log_format == "json" else []
    # Straight to standard error: a pass through the standard library's loggers takes longer than all else of a line.
    structlog.configure(
        processors=[*shared, *exceptions, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_Lines(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *exceptions, renderer],
        )
    )
    logging.basicConfig(level=max(level, logging.INFO), handlers=[handler], force=True)
    for noisy in ("alembic", "httpx", "celery.worker.strategy", "celery.app.trace", "celery.redirected"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


class _Lines:
    """Writes lines to a stream, for threads. One that cannot be written is lost, and whoever wrote it goes on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._writing = threading.Lock()
        self._flushes_itself = bool(getattr(stream, "line_buffering", False))  # as standard error does

    def __call__(self, *_name: object) -> "_Lines":
        """It is its own factory."""
        return self

    def msg(self, line: str) -> None:
        """Write one."""
        with self._writing, contextlib.suppress(OSError, ValueError):  # the disk is full, the stream is closed
            self._stream.write(line + "\n")
            if not self._flushes_itself:
                self._stream.flush()

    debug = info = warning = error = critical = exception = msg


def _as_json(event: dict[str, Any], default: Callable[[Any], Any]) -> str:
    try:
        line = orjson.dumps(event, default, orjson.OPT_PASSTHROUGH_DATETIME)
    except TypeError:  # what it does not know: keys that are no strings, integers of more than 64 bits
        return json.dumps(event, default=default)
    # Whatever the encoding of standard error is, ASCII can be written to it.
    return line.decode() if line.isascii() else json.dumps(event, default=default)
