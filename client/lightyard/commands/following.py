"""Staying with a job until it ends, or until the reader leaves."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.live import Live

from lightyard.client import Client
from lightyard.commands.session import AsJson, ExitCode, JobId, Screen, connected, exit_as
from lightyard.records import Job
from lightyard.render import job_line, job_panel, reason_text

# Where there is no terminal to redraw, numbers alone make a new line this often; a new state or epoch always does.
LINE_SECONDS = 10.0


def watch(context: typer.Context, job_id: JobId, as_json: AsJson = False) -> None:
    """Show a job's progress until it ends. Ctrl-C stops watching; the job goes on."""
    screen = Screen(as_json)
    with connected(context, screen) as client:
        raise exit_as(follow(client, screen, job_id))


def logs(
    context: typer.Context,
    job_id: JobId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for more until the job has ended.")] = False,
    tail: Annotated[int | None, typer.Option(min=0, metavar="N", help="Only the last N lines.")] = None,
    rank: Annotated[int, typer.Option(min=0, metavar="N", help="Whose, of a job on several devices.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Print what a job's trainer has printed."""
    screen = Screen(as_json)
    with connected(context, screen) as client, detachable(screen, f"lightyard logs -f {job_id}"):
        lines = client.logs(job_id, follow=follow, tail=tail, rank=rank)
        if as_json and not follow:
            screen.document({"job_id": job_id, "lines": list(lines)})
            return
        for line in lines:
            # The trainer's own words, as they are: a log that is saved to a file must not be another one.
            screen.line({"line": line}) if as_json else typer.echo(line)


def follow(client: Client, screen: Screen, job_id: str) -> Job:
    """Show a job until it has ended, and why it ended so; return it as it ended."""
    with detachable(screen, f"lightyard watch {job_id}"):
        jobs = client.watch(job_id)
        if screen.as_json:
            return _last(_each_as_json(screen, jobs))
        job = _last(_each_as_panel(screen, jobs) if screen.out.is_terminal else _each_as_line(screen, jobs))
    if job.reason is not None:
        screen.show(reason_text(job.reason))
    return job


@contextmanager
def detachable(screen: Screen, again: str) -> Iterator[None]:
    """Take Ctrl-C as the reader's leaving: the job goes on, and `again` is how to come back."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        screen.note(f"Detached; the job goes on. To see it again: {again}")
        raise typer.Exit(ExitCode.DETACHED) from interrupt


def _each_as_json(screen: Screen, jobs: Iterator[Job]) -> Iterator[Job]:
    for job in jobs:
        screen.line(dict(job.raw))
        yield job


def _each_as_panel(screen: Screen, jobs: Iterator[Job]) -> Iterator[Job]:
    with Live(console=screen.out, refresh_per_second=8) as live:
        for job in jobs:
            live.update(job_panel(job))
            yield job


def _each_as_line(screen: Screen, jobs: Iterator[Job]) -> Iterator[Job]:
    shown_at = 0.0
    shown: tuple[object, ...] = ()
    for job in jobs:
        state: tuple[object, ...] = (job.status, job.phase, job.attempt, job.progress.epoch, job.cancel_requested_at)
        if state != shown or time.monotonic() - shown_at >= LINE_SECONDS:
            screen.show(job_line(job))
            shown_at, shown = time.monotonic(), state
        yield job


def _last(jobs: Iterator[Job]) -> Job:
    # Not a list: a day's training has a great many changes.
    last = next(jobs)
    for last in jobs:  # noqa: B007  the last one is what is wanted
        pass
    return last
