"""Listing what a job has saved, and fetching it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from lightyard.commands.session import AsJson, ExitCode, JobId, Screen, connected, given, rows_document
from lightyard.download import OnProgress
from lightyard.render import checkpoints_table, plain


def checkpoints(context: typer.Context, job_id: JobId, as_json: AsJson = False) -> None:
    """List a job's checkpoints."""
    screen = Screen(as_json)
    with connected(context, screen) as client:
        found = list(client.checkpoints(job_id))
        if as_json:
            screen.document(rows_document([one.raw for one in found]))
        elif found:
            screen.show(checkpoints_table(found))
        else:
            screen.note("No checkpoints.")


def download(
    context: typer.Context,
    source: Annotated[
        str, typer.Argument(metavar="JOB|CHECKPOINT", help="A job's or a checkpoint's id.", callback=given)
    ],
    which: Annotated[
        str, typer.Option(metavar="best|last|CHECKPOINT", help="Which of the job's checkpoints.", callback=given)
    ] = "best",
    to: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="PATH", help="A file, or a folder that is there.")
    ] = None,
    weights: Annotated[bool, typer.Option("--weights", help="Its weights alone, as a safetensors file.")] = False,
    as_json: AsJson = False,
) -> None:
    """Fetch a checkpoint, and print where it is.

    A download that broke off goes on where it stopped. The file appears once its size and sha256 are right.
    """
    screen = Screen(as_json)
    with connected(context, screen) as client:
        content = client.content(source, which, weights=weights)
        try:
            with _progress_bar(content.checkpoint_id) as on_progress:
                path = client.fetch(content, to, on_progress=on_progress)
        except OSError as error:
            screen.note(f"error: cannot write the file: {plain(error)}")
            raise typer.Exit(ExitCode.DOWNLOAD) from error
        if as_json:
            screen.document(
                {
                    "checkpoint_id": content.checkpoint_id,
                    "path": str(path),
                    "size_bytes": content.size_bytes,
                    "sha256": content.sha256,
                }
            )
        else:
            # A path is for the next command to read: as it is, on a line of its own.
            typer.echo(str(path))


@contextmanager
def _progress_bar(name: str) -> Iterator[OnProgress | None]:
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = ("{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(name, total=None)

        def on_progress(done_bytes: int, total_bytes: int) -> None:
            progress.update(task, completed=done_bytes, total=total_bytes)

        yield on_progress
