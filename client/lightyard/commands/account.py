"""Where the client goes, and with which key."""

import sys
from typing import Annotated

import typer

from lightyard.client import Client
from lightyard.commands.session import AsJson, Connection, Screen, connected
from lightyard.config import write_config
from lightyard.release import client_version


def login(
    context: typer.Context,
    url: Annotated[str, typer.Option(prompt="Address of the service", help="Such as https://lightyard.example.org.")],
    key: Annotated[str, typer.Option(prompt="API key", hide_input=True, help="The API key; - reads it from stdin.")],
    check: Annotated[bool, typer.Option(help="Ask the service whether it takes the key, first.")] = True,
    as_json: AsJson = False,
) -> None:
    """Store address and key for later calls, in a file that only you can read."""
    screen = Screen(as_json)
    key = sys.stdin.readline() if key == "-" else key
    context.obj = Connection(url.strip(), key.strip())
    with connected(context, screen) as client:
        if check:
            _ask(client)
        path = write_config(url, key)
        if as_json:
            screen.document({"url": client.address.url, "path": str(path)})
        else:
            screen.show(f"Stored in {path}")


def version(as_json: AsJson = False) -> None:
    """Print the client's version."""
    screen = Screen(as_json)
    screen.document({"version": client_version()}) if as_json else screen.show(client_version())


def _ask(client: Client) -> None:
    """Make a call that needs a good key."""
    next(client.jobs(limit=1), None)
