"""Looking at jobs, and asking something of one."""

from collections.abc import Callable
from itertools import islice
from typing import Annotated

import typer

from lightyard.client import Client
from lightyard.commands.following import detachable
from lightyard.commands.session import (
    AsJson,
    JobId,
    Labels,
    Screen,
    connected,
    exit_as,
    pairs,
    rows_document,
)
from lightyard.records import Job
from lightyard.render import (
    event_line,
    figure,
    job_details,
    job_line,
    jobs_table,
    metrics_table,
    series_table,
    sparkline,
)


def list_jobs(
    context: typer.Context,
    status: Annotated[str | None, typer.Option(help="queued, running, paused, succeeded, failed or cancelled.")] = None,
    name: Annotated[str | None, typer.Option(help="Jobs of this name.")] = None,
    labels: Labels = None,
    limit: Annotated[int, typer.Option(min=0, metavar="N", help="At most N jobs; 0 is all.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    screen = Screen(as_json)
    with connected(context, screen) as client:
        jobs = list(client.jobs(status=status, name=name, labels=pairs(labels), limit=limit or None))
        if as_json:
            screen.document(rows_document([job.raw for job in jobs]))
        elif jobs:
            screen.show(jobs_table(jobs))
        else:
            screen.note("No jobs.")


def status(context: typer.Context, job_id: JobId, as_json: AsJson = False) -> None:
    """Show a job as it is now. Exits with 0 whatever the job's state is."""
    screen = Screen(as_json)
    with connected(context, screen) as client:
        job = client.job(job_id)
        screen.document(dict(job.raw)) if as_json else screen.show(job_details(job))


def events(
    context: typer.Context,
    job_id: JobId,
    limit: Annotated[int, typer.Option(min=0, metavar="N", help="At most N events; 0 is all.")] = 0,
    as_json: AsJson = False,
) -> None:
    """List all that has happened to a job."""
    screen = Screen(as_json)
    with connected(context, screen) as client:
        happened = list(islice(client.events(job_id), limit or None))
        if as_json:
            screen.document(rows_document([event.raw for event in happened]))
            return
        for event in happened:
            screen.show(event_line(event))


def metrics(
    context: typer.Context,
    job_id: JobId,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="A metric, for its points.")] = None,
    from_step: Annotated[int | None, typer.Option(help="First step.")] = None,
    to_step: Annotated[int | None, typer.Option(help="Last step.")] = None,
    max_points: Annotated[int | None, typer.Option(min=1, help="At most so many points.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show a job's metrics, or the points of one."""
    screen = Screen(as_json)
    with connected(context, screen) as client:
        if not name:
            found = client.metrics(job_id)
            screen.document(rows_document([one.raw for one in found])) if as_json else screen.show(metrics_table(found))
            return
        series = client.series(job_id, name, from_step=from_step, to_step=to_step, max_points=max_points)
        if as_json:
            screen.document(dict(series.raw))
            return
        screen.show(series_table(series))
        values = [point.value for point in series.points if point.value is not None]
        if values:
            more = "; points are buckets of a longer series" if series.downsampled else ""
            screen.note(f"{sparkline(values)}  {figure(values[0])} to {figure(values[-1])}{more}")


def cancel(
    context: typer.Context,
    job_id: JobId,
    force: Annotated[bool, typer.Option("--force", help="Kill it: no checkpoint is saved first.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Stay until the job has ended.")] = False,
    as_json: AsJson = False,
) -> None:
    """Stop a job, between two steps and with a checkpoint.

    With --wait it exits with 0 when the job ended cancelled, and as `watch` does when it had ended otherwise before.
    """
    screen = Screen(as_json)
    with connected(context, screen) as client:
        job = client.cancel(job_id, force=force)
        if wait:
            with detachable(screen, f"lightyard watch {job_id}"):
                job = client.wait(job_id)
        screen.document(dict(job.raw)) if as_json else screen.show(job_line(job))
        if wait and job.status != "cancelled":
            raise exit_as(job)


def pause(context: typer.Context, job_id: JobId, as_json: AsJson = False) -> None:
    """Take a job off its devices, or out of the queue; it is saved first, and goes on when it is resumed."""
    _ask(context, Client.pause, job_id, as_json)


def resume(context: typer.Context, job_id: JobId, as_json: AsJson = False) -> None:
    """Put a paused job back into the queue, to go on where it stopped; or take a request to pause back."""
    _ask(context, Client.resume, job_id, as_json)


def checkpoint(context: typer.Context, job_id: JobId, as_json: AsJson = False) -> None:
    """Have a running job save a checkpoint now, between two steps; it goes on afterwards."""
    _ask(context, Client.request_checkpoint, job_id, as_json)


def _ask(context: typer.Context, verb: Callable[[Client, str], Job], job_id: str, as_json: bool) -> None:
    screen = Screen(as_json)
    with connected(context, screen) as client:
        job = verb(client, job_id)
        screen.document(dict(job.raw)) if as_json else screen.show(job_line(job))
