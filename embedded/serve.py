"""The whole service in one foreground command: broker, API and worker on one home folder."""

import multiprocessing
import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path

from honcho.environ import parse_procfile
from rich.console import Console
from rich.markup import escape
from sqlalchemy.exc import SQLAlchemyError

from core.database import Database, is_current, upgrade, wait_for
from core.security import first_start
from core.settings import Settings, settings
from embedded.home import HomeError, address, check_port, free_port, only_stack_in
from embedded.readiness import NotReady, wait_until_ready
from embedded.runner import Runner

API_GRACE_SECONDS = 10.0
BROKER_GRACE_SECONDS = 10.0
WORKER_MARGIN_SECONDS = 10.0
"""What a worker gets beyond `LIGHTYARD_STOP_GRACE_SECONDS`, to hand its jobs back while the database is slow.

Told to stop, it kills its trainers at once and puts their jobs back into the queue, preempted at no cost; they resume
from their newest recovery checkpoints. Mostly that takes a moment.
"""


def main() -> None:
    """Migrate, start, say where everything is, and run until Ctrl-C, SIGTERM or the end of a process.

    Exit status: 0 after a signal, 1 if the stack could not start or a process ended by itself.
    """
    config = settings()
    console = Console(soft_wrap=True, highlight=False)
    try:
        with only_stack_in(config.home):
            port = config.port or free_port(config.host)
            check_port(config.host, port)
            environment = _environment(config, port)
            _migrate(config)
            ended = _run(config, port, environment, console)
    except HomeError as error:
        console.print(f"[bold red]cannot start:[/] {escape(str(error))}")
        sys.exit(1)
    except KeyboardInterrupt:  # before the runner took the signals over
        sys.exit(0)
    sys.exit(1 if ended else 0)


def _run(config: Settings, port: int, environment: dict[str, str], console: Console) -> str | None:
    """Run the Procfile's processes; returns the name of the one that ended the run, None after a signal."""

    def when_started() -> None:
        url = address(config.host, port)
        try:
            key = wait_until_ready(url, config.key_path, config.start_timeout_seconds, lambda: not runner.is_stopping)
        except NotReady as reason:
            if not runner.is_stopping:
                console.print(f"[yellow]not ready yet:[/] {escape(str(reason))}; the messages above may say why")
            return
        _announce(console, config, url, key)

    runner = Runner(when_started)
    for name, command in _commands().items():
        if name == "broker" and config.broker_url:
            continue
        runner.add(name, command, environment, _grace_seconds(name, config))
    runner.loop()
    with suppress(OSError):  # the broker's socket is gone with it; its folder is in use, or was never made, otherwise
        config.socket_path.parent.rmdir()
    if runner.ended:
        console.print(f"[bold red]{runner.ended} ended by itself[/] ({runner.ended_how}); the others were stopped.")
        console.print(f"Its last lines:\n{escape(runner.output.last_of(runner.ended)) or '(it wrote nothing)'}")
    return runner.ended


def _announce(console: Console, config: Settings, url: str, key: str) -> None:
    client = shutil.which("lightyard") or str(Path(sys.executable).with_name("lightyard"))
    near = Path(client).is_relative_to(Path.cwd())
    console.print(
        f"\n[bold green]Lightyard is up:[/] {url}\n"
        f"  API key  {key}  (kept in {config.key_path})\n"
        f"  submit   {Path(client).relative_to(Path.cwd()) if near else client} submit examples/digits.yaml --follow\n"
        f"  state    {config.home}\n"
        f"  stop     Ctrl-C; the next start finds these jobs again\n"
    )


def _migrate(config: Settings) -> None:
    """Bring the database up to date, before anything is forked: Ctrl-C in the moment of a fork would be lost."""
    database = Database.of(config)
    try:
        wait_for(database)
        if not is_current(database):
            _upgrade(database)
        first_start(database, config.key_path)
    except (SQLAlchemyError, OSError) as error:
        raise HomeError(f"the database could not be brought up to date: {error}") from error
    finally:
        database.close()


def _upgrade(database: Database) -> None:
    from alembic.util import CommandError  # takes long to load, and mostly there is nothing to do

    try:
        upgrade(database)
    except CommandError as error:  # it is of a newer version, say
        raise HomeError(f"the database could not be brought up to date: {error}") from error


def _environment(config: Settings, port: int) -> dict[str, str]:
    """What the processes inherit; everything that was set stays set."""
    here = Path(sys.executable).parent
    return os.environ | {
        "PATH": f"{here}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "PYTHONUNBUFFERED": "1",
        "LIGHTYARD_HOME": str(config.home),
        "LIGHTYARD_PORT": str(port),
    }


def _commands() -> dict[str, str]:
    """The Procfile's commands by name: the repository's, or the copy that a wheel carries."""
    places = (Path(__file__).parent.parent / "Procfile", Path(__file__).parent / "Procfile")
    text = next(place for place in places if place.exists()).read_text()
    return dict(parse_procfile(text).processes)


def _grace_seconds(name: str, config: Settings) -> float:
    if name == "worker":
        # Once for the trainers to save and stop, once for what they saved to be stored.
        return 2 * config.stop_grace_seconds + WORKER_MARGIN_SECONDS
    return BROKER_GRACE_SECONDS if name == "broker" else API_GRACE_SECONDS


if __name__ == "__main__":
    multiprocessing.set_start_method("fork")  # honcho hands live objects to its processes
    main()
