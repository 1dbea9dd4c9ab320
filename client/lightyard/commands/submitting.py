"""Handing in a job, and asking whether it would be taken."""

import sys
import uuid
from pathlib import Path
from typing import Annotated

import typer

from lightyard.commands.following import follow
from lightyard.commands.session import AsJson, ExitCode, JobId, Labels, Screen, connected, exit_as, pairs
from lightyard.commands.trying import try_out
from lightyard.errors import ApiError, UnreachableError
from lightyard.render import faults_table
from lightyard.submission import Source

SpecFile = Annotated[
    Path,
    typer.Argument(metavar="FILE", help="A job spec or a plain LightningCLI config, YAML or JSON; - reads stdin."),
]
OverrideList = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Overrides, such as trainer.max_epochs=3 or priority=5."),
]


def submit(
    context: typer.Context,
    file: SpecFile,
    overrides: OverrideList = None,
    following: Annotated[bool, typer.Option("--follow", "-f", help="Stay until the job ends.")] = False,
    name: Annotated[str | None, typer.Option(help="The job's name.")] = None,
    labels: Labels = None,
    priority: Annotated[int | None, typer.Option(help="-100 to 100, higher first.")] = None,
    max_seconds: Annotated[float | None, typer.Option(help="Longest running time, in seconds.")] = None,
    max_attempts: Annotated[int | None, typer.Option(help="Most attempts when workers are lost.")] = None,
    retry_oom: Annotated[bool, typer.Option("--retry-oom", help="Try again what ran out of memory, too.")] = False,
    idempotency_key: Annotated[
        str | None, typer.Option(help="Name this submission: repeated with the same key, it makes one job.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only try one batch of everything on a worker, and tell what was found.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Submit a job, and print its id."""
    screen = Screen(as_json)
    key = idempotency_key or uuid.uuid4().hex
    if dry_run:
        with connected(context, screen) as client:
            raise typer.Exit(try_out(client, screen, _source(file), overrides or (), key))
    limits = {"max_seconds": max_seconds, "max_attempts": max_attempts, "retry_oom": retry_oom or None}
    with connected(context, screen) as client:
        try:
            job = client.submit(
                _source(file),
                overrides=overrides or (),
                name=name,
                labels=pairs(labels),
                priority=priority,
                limits={limit: value for limit, value in limits.items() if value is not None},
                idempotency_key=key,
            )
        except (UnreachableError, ApiError, KeyboardInterrupt) as error:
            # The service's own refusal, by its problem body, made no job; a proxy's 502 says nothing of the kind.
            if isinstance(error, ApiError) and (error.status < 500 or error.raw):
                raise
            screen.note(
                "The job may have been made all the same. Repeat the command with this, and there will be one job: "
                f"--idempotency-key {key}"
            )
            if isinstance(error, KeyboardInterrupt):
                raise typer.Exit(ExitCode.DETACHED) from error
            raise
        if job.replayed:
            screen.note(f"This idempotency key made {job.id} before; no other job was made.")
        if not as_json:
            screen.show(job.id)
        elif following:
            screen.line(dict(job.raw))
        else:
            screen.document(dict(job.raw))
        if following:
            raise exit_as(follow(client, screen, job.id))
        screen.note(f"Submitted. To watch it: lightyard watch {job.id}")


def retry(
    context: typer.Context,
    job_id: JobId,
    overrides: OverrideList = None,
    start: Annotated[
        str | None,
        typer.Option("--from", metavar="last|best|CHECKPOINT", help="Go on from there, with optimizer and counters."),
    ] = None,
    weights_from: Annotated[
        str | None, typer.Option(metavar="last|best|CHECKPOINT", help="Start with its weights alone.")
    ] = None,
    subcommand: Annotated[str | None, typer.Option(help="fit, validate, test or predict.")] = None,
    following: Annotated[bool, typer.Option("--follow", "-f", help="Stay until the job ends.")] = False,
    idempotency_key: Annotated[
        str | None, typer.Option(help="Name this retry: repeated with the same key, it makes one job.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a job again that has ended, as a new job, and print its id."""
    screen = Screen(as_json)
    with connected(context, screen) as client:
        job = client.retry(
            job_id,
            start=start,
            overrides=overrides or (),
            subcommand=subcommand,
            weights_from=weights_from,
            idempotency_key=idempotency_key,
        )
        if not as_json:
            screen.show(job.id)
        elif following:
            screen.line(dict(job.raw))
        else:
            screen.document(dict(job.raw))
        if following:
            raise exit_as(follow(client, screen, job.id))


def validate(context: typer.Context, file: SpecFile, overrides: OverrideList = None, as_json: AsJson = False) -> None:
    """Ask what is wrong with a job, without making one."""
    screen = Screen(as_json)
    with connected(context, screen) as client:
        validation = client.validate(_source(file), overrides=overrides or ())
        if as_json:
            screen.document(dict(validation.raw))
        elif validation.valid:
            screen.show("valid")
        else:
            screen.show(faults_table(validation.faults))
        if not validation.valid:
            raise typer.Exit(ExitCode.REFUSED)


def _source(file: Path) -> Source:
    return sys.stdin.buffer.read() if str(file) == "-" else file
