"""Lines of the log, whoever writes them."""

import io
import json
import logging
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import structlog

from core.log import configure
from core.settings import Settings


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What is logged as JSON meanwhile."""
    with monkeypatch.context() as patched:
        stream = io.StringIO()
        patched.setattr(sys, "stderr", stream)
        configure(Settings(home=tmp_path, log_format="json"))
        yield stream
    configure(Settings(home=tmp_path))


def test_a_line_of_ours_has_the_form_of_one_of_a_library_s(written: io.StringIO) -> None:
    with structlog.contextvars.bound_contextvars(request_id="req_1"):
        structlog.get_logger().info("said", milliseconds=1.5)
        logging.getLogger("a.library").info("said")
    ours, theirs = map(json.loads, written.getvalue().splitlines())
    assert ours.pop("milliseconds") == 1.5
    for line in (ours, theirs):
        assert datetime.fromisoformat(line.pop("timestamp")).utcoffset() is not None
        assert line == {"event": "said", "level": "info", "request_id": "req_1"}


def test_whatever_a_line_holds_is_written_and_below_the_level_nothing_is(written: io.StringIO) -> None:
    log = structlog.get_logger()
    log.debug("unheard")
    log.info("many", number=2**80, text="\ud800é\n", things={1}, moment=datetime(2026, 1, 2, tzinfo=UTC), keys={1: 2})
    try:
        raise ValueError("why")
    except ValueError:
        log.exception("failed")
    many, failed = map(json.loads, written.getvalue().splitlines())
    assert (many["number"], many["keys"], many["event"]) == (2**80, {"1": 2}, "many")
    assert "ValueError: why" in failed["exception"]
    assert failed["level"] == "error"


def test_a_line_that_cannot_be_written_is_lost_and_its_writer_goes_on(written: io.StringIO) -> None:
    written.close()
    structlog.get_logger().info("unheard")
