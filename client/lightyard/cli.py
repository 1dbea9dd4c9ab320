"""The command line: `lightyard`."""

import logging
from typing import Annotated

import typer

from lightyard.commands import account, checkpoints, fleet, following, jobs, submitting
from lightyard.commands.session import Connection, NoticeHandler

EXIT_CODES = """Exit codes: 0 done, and the job succeeded where it was watched. 1 the job failed. 2 wrong usage.
3 refused by the API. 4 not found. 5 not authorized. 6 the API cannot be reached, or fails. 7 the job was cancelled.
8 the download is damaged or cannot be written. 130 left with Ctrl-C; the job goes on."""

app = typer.Typer(
    name="lightyard",
    help="Train PyTorch Lightning models on a Lightyard service.",
    epilog=EXIT_CODES.replace("\n", " "),
    no_args_is_help=True,
    # A traceback with the values of variables would show the key.
    pretty_exceptions_enable=False,
)

app.command()(submitting.submit)
app.command()(submitting.retry)
app.command()(submitting.validate)
app.command("list")(jobs.list_jobs)
app.command()(jobs.status)
app.command()(following.watch)
app.command()(following.logs)
app.command()(jobs.events)
app.command()(jobs.metrics)
app.command()(checkpoints.checkpoints)
app.command()(checkpoints.download)
app.command()(jobs.cancel)
app.command()(jobs.pause)
app.command()(jobs.resume)
app.command()(jobs.checkpoint)
app.command()(fleet.workers)
app.command()(fleet.catalog)
app.command()(account.login)
app.command()(account.version)


@app.callback()
def connection(
    context: typer.Context,
    url: Annotated[str | None, typer.Option(help="Address of the service, in place of LIGHTYARD_URL.")] = None,
    key: Annotated[str | None, typer.Option(help="API key, in place of LIGHTYARD_API_KEY.")] = None,
) -> None:
    """Train PyTorch Lightning models on a Lightyard service."""
    context.obj = Connection(url, key)
    logger = logging.getLogger("lightyard.client")
    # One for this run of the command, whatever a run before it in the same process has said.
    logger.handlers = [NoticeHandler()]
    logger.propagate = False


def main() -> None:
    """Run the command line."""
    app()
