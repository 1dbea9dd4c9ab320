"""What the service can run, and on what."""

from typing import Annotated

import typer

from lightyard.commands.session import AsJson, Screen, connected, rows_document
from lightyard.render import catalog_table, class_details, workers_table


def workers(context: typer.Context, as_json: AsJson = False) -> None:
    """List the workers: who is up, on what devices, doing what."""
    screen = Screen(as_json)
    with connected(context, screen) as client:
        found = client.workers()
        if as_json:
            screen.document(rows_document(found))
        elif found:
            screen.show(workers_table(found))
        else:
            screen.note("No workers are up.")


def catalog(
    context: typer.Context,
    class_path: Annotated[str | None, typer.Argument(metavar="CLASS", help="A class, for its arguments.")] = None,
    kind: Annotated[str | None, typer.Option(help="model, data, callback and so on.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the classes that workers can run, or the arguments of one."""
    screen = Screen(as_json)
    with connected(context, screen) as client:
        if class_path:
            entry = client.catalog_class(class_path)
            screen.document(entry) if as_json else screen.show(class_details(entry))
            return
        entries = client.catalog(kind=kind)
        if as_json:
            screen.document(rows_document(entries))
        elif entries:
            screen.show(catalog_table(entries))
        else:
            screen.note("The catalogue is empty: no worker has announced anything of that kind yet.")
