"""What every command has: a client, a place to write to, and an exit code that a script can use."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType

from lightyard.client import Client
from lightyard.errors import ApiError, ConfigError, DownloadError, LightyardError, SpecError
from lightyard.records import Job
from lightyard.render import faults_table, plain

AsJson = Annotated[bool, typer.Option("--json", help="Write JSON to stdout, everything else to stderr.")]


class ExitCode(IntEnum):
    """How a command ended; `docs/cli.md` has the list for people."""

    OK = 0
    JOB_FAILED = 1
    USAGE = 2
    REFUSED = 3
    NOT_FOUND = 4
    UNAUTHORIZED = 5
    UNREACHABLE = 6
    JOB_CANCELLED = 7
    DOWNLOAD = 8
    DETACHED = 130


EXIT_OF_STATUS = {
    "succeeded": ExitCode.OK,
    "failed": ExitCode.JOB_FAILED,
    "cancelled": ExitCode.JOB_CANCELLED,
}


NOTICE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Connection:
    """The address and key given on the command line, for the client to complete."""

    url: str | None
    key: str | None


class Screen:
    """Where a command writes: results to stdout, and what only people want to know to stderr."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.out = _console(stderr=False)
        self._err = _console(stderr=True)

    def show(self, *renderables: RenderableType) -> None:
        """Write for people."""
        _write(self.out, renderables)

    def note(self, *renderables: RenderableType) -> None:
        """Tell people something that is no result."""
        _write(self._err, renderables)

    def document(self, value: object) -> None:
        """Write the one JSON document of a command."""
        typer.echo(json.dumps(value, indent=2))

    def line(self, value: object) -> None:
        """Write one JSON line of a command that follows."""
        typer.echo(json.dumps(value))

    def error(self, error: LightyardError) -> None:
        """Say what went wrong; a refused body's faults as a table."""
        if self.as_json:
            self.line({"error": error.as_dict()})
        words = error.detail if isinstance(error, ApiError) else str(error)
        self.note(f"error: {plain(words)}")
        if isinstance(error, ApiError):
            if error.faults:
                self.note(faults_table(error.faults))
            if error.request_id:
                self.note(f"({error.status} {plain(error.code)}, request {plain(error.request_id)})")
            if error.status == 401:
                self.note("Give a key with --key, LIGHTYARD_API_KEY, or `lightyard login`.")


@contextmanager
def connected(context: typer.Context, screen: Screen) -> Iterator[Client]:
    """Give a client for the time of a command, and turn its errors into words and an exit code."""
    connection = context.find_object(Connection) or Connection(None, None)
    try:
        with Client(connection.url, connection.key) as client:
            yield client
    except LightyardError as error:
        screen.error(error)
        raise typer.Exit(exit_code(error)) from error


def exit_code(error: LightyardError) -> ExitCode:
    """The exit code that tells a script what to do about an error."""
    if isinstance(error, ApiError):
        by_status = {401: ExitCode.UNAUTHORIZED, 403: ExitCode.UNAUTHORIZED, 404: ExitCode.NOT_FOUND}
        return by_status.get(error.status, ExitCode.REFUSED if error.status < 500 else ExitCode.UNREACHABLE)
    if isinstance(error, SpecError | ConfigError):
        return ExitCode.USAGE
    return ExitCode.DOWNLOAD if isinstance(error, DownloadError) else ExitCode.UNREACHABLE


def exit_as(job: Job) -> typer.Exit:
    """The end of a command that has seen a job to its end."""
    return typer.Exit(EXIT_OF_STATUS.get(job.status, ExitCode.JOB_FAILED))


def rows_document(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A list as a JSON document, in the shape in which the service writes one."""
    return {"data": [dict(row) for row in rows]}


def given(value: str) -> str:
    """Refuse an empty id: it is most often a script's unset variable."""
    if not value.strip():
        raise typer.BadParameter("it is empty")
    return value


def pairs(texts: Sequence[str] | None) -> dict[str, str]:
    """Read `--label k=v` options."""
    labels = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise typer.BadParameter(f"{text!r} is no label; one looks like team=vision", param_hint="--label")
        labels[name] = value
    return labels


class NoticeHandler(logging.Handler):
    """Tells people on stderr what the client says of itself: that it has to try again, and why."""

    def __init__(self) -> None:
        super().__init__()
        self._said_at: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Write one notice, above a live display if there is one; the same reason once a minute, not at each try."""
        reason = str(record.args[0]) if isinstance(record.args, tuple) and record.args else record.msg
        if record.created - self._said_at.get(reason, 0.0) < NOTICE_SECONDS:
            return
        self._said_at = {reason: record.created}
        typer.echo(plain(record.getMessage()), err=True)


JobId = Annotated[str, typer.Argument(metavar="JOB", help="A job's id.", callback=given)]
Labels = Annotated[list[str] | None, typer.Option("--label", metavar="NAME=VALUE", help="A label; may be repeated.")]


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        # A pipe has no width: a table's row stays one line.
        console.width = 100_000
    return console


def _write(console: Console, renderables: Sequence[RenderableType]) -> None:
    if console.is_terminal:
        console.print(*renderables)
        return
    with console.capture() as capture:
        console.print(*renderables)
    for line in capture.get().splitlines():
        typer.echo(line.rstrip(), err=console.stderr)
