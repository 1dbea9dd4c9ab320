import io
import math

import pytest
from rich.console import Console

from lightyard.records import Job
from lightyard.render import duration, job_details, job_line, job_panel, plain, size, sparkline


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59.4, "59 s"), (60, "1:00"), (3661, "1:01:01"), (None, "–"), (math.inf, "–")]
)
def test_a_duration_reads_like_a_clock(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("size_bytes", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 * 2**40, "5.0 TiB")]
)
def test_a_size_has_its_unit(size_bytes: int, text: str) -> None:
    assert size(size_bytes) == text


def test_a_sparkline_spans_its_extremes_and_leaves_gaps() -> None:
    assert sparkline([0, math.nan, 7]) == "▁ █"
    assert sparkline([1, 1]) == "▄▄"
    assert sparkline([None, math.inf]) == ""
    assert len(sparkline(range(1000), width=60)) <= 60


def test_what_comes_from_elsewhere_cannot_steer_the_terminal() -> None:
    assert "\x1b" not in plain("a\x1b]0;title\x07\x9b31m")


def test_a_running_job_shows_its_bar_rate_and_metrics() -> None:
    job = Job.from_raw({
        "id": "job_1", "status": "running", "phase": "training", "name": "[red]digits", "metrics": {"loss": 0.25},
        "progress": {
            "epoch": 1, "global_step": 30, "max_steps": 60, "fraction": 0.5, "steps_per_second": 12, "eta_seconds": 90,
        },
    })  # fmt: skip
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)

    console.print(job_panel(job))

    shown = console.file.getvalue()  # type: ignore[attr-defined]
    for words in ("[red]digits", "training", "50%", "step 30/60", "12 steps/s", "eta 1:30", "loss=0.25", "━"):
        assert words in shown
    assert job_line(job).startswith("job_1  running/training  epoch 1  step 30/60  12 steps/s")


def test_a_job_tells_of_each_attempt_how_it_ended_and_how_exactly_it_went_on() -> None:
    job = Job.from_raw({
        "id": "job_1", "status": "running",
        "attempts": [
            {"number": 1, "worker": "a", "outcome": "worker_lost", "resume": None, "steps_lost": None},
            {"number": 2, "worker": "b", "outcome": None, "resume": "exact", "steps_lost": 7},
        ],
    })  # fmt: skip
    console = Console(file=io.StringIO(), width=200)
    console.print(job_details(job))
    shown = console.file.getvalue()
    assert "1: worker_lost on a; 2: running on b (exact, 7 steps again)" in shown


def test_what_is_asked_of_a_job_shows_until_it_has_ended() -> None:
    asked = {f"{what}_requested_at": "2026-01-02T03:04:05Z" for what in ("cancel", "pause", "checkpoint")}
    line = job_line(Job.from_raw({"id": "job_1", "status": "running", **asked}))
    assert line.split("  ")[2:] == ["cancel requested", "pause requested", "checkpoint requested"]
    assert "requested" not in job_line(Job.from_raw({"id": "job_1", "status": "cancelled", **asked}))
