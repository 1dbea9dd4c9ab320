"""From nothing to a trained model: serve, submit, watch, download, and test the model outside the service."""

import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.markup import escape

from core.settings import settings
from embedded.home import address, free_port
from embedded.lineage import bound_to_parent
from embedded.readiness import NotReady, wait_until_ready

HOST = "127.0.0.1"
REPOSITORY = Path(__file__).resolve().parent.parent
CONFIG = Path("examples", "digits.yaml")
EVALUATE = Path("examples", "evaluate.py")
CLIENT = (sys.executable, "-c", "from lightyard.cli import main; main()")
"""The `lightyard` command, of this very environment."""
STOP_SECONDS = 60.0
LOG_TAIL_BYTES = 4000


class DemoError(Exception):
    """A step of the demo failed; the message says which."""


def main() -> None:
    """Run the demo in a home of its own, `demo` in the home folder; exit status 0 only if every step succeeded."""
    console = Console(soft_wrap=True, highlight=False)
    home = settings().home / "demo"
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    log, checkpoint = home / "stack.log", home / "digits-best.ckpt"
    environment = _environment(home)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        console.print(f"Starting broker, API and worker in {home} …")
        with _stack(environment, log) as stack:
            url = address(HOST, int(environment["LIGHTYARD_PORT"]))
            start_seconds = settings().start_timeout_seconds
            key = wait_until_ready(url, home / "key", start_seconds, lambda: stack.poll() is None)
            client = environment | {"LIGHTYARD_URL": url, "LIGHTYARD_API_KEY": key}
            job_id = _train(console, client)
            checkpoint.unlink(missing_ok=True)
            _lightyard(console, client, "download", job_id, "--output", str(checkpoint))
        _test(console, checkpoint)
    except (DemoError, NotReady) as error:
        console.print(f"[bold red]The demo failed:[/] {escape(str(error))}")
        console.print(f"The end of the stack's log, {log}:\n{escape(_tail(log))}")
        sys.exit(1)
    except KeyboardInterrupt:
        console.print("Stopped.")
        sys.exit(130)
    console.print(f"checkpoint: {checkpoint}")


def _train(console: Console, environment: Mapping[str, str]) -> str:
    """Submit the example and stay until it has ended; returns the job's id."""
    mark = f"demo={secrets.token_hex(4)}"
    _lightyard(console, environment, "submit", str(CONFIG), "--label", mark, "--follow")
    found = subprocess.run(
        [*CLIENT, "list", "--label", mark, "--json"],
        env=environment,
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        check=False,
    )
    if found.returncode != 0:
        raise DemoError(f"lightyard list ended with exit status {found.returncode}")
    [job] = json.loads(found.stdout)["data"]
    return str(job["id"])


def _lightyard(console: Console, environment: Mapping[str, str], *arguments: str) -> None:
    """Run the client as a user would, its output and live progress on this terminal."""
    console.print(f"[bold]$ lightyard {escape(' '.join(arguments))}[/]")
    status = subprocess.run([*CLIENT, *arguments], env=environment, cwd=REPOSITORY, check=False).returncode
    if status != 0:
        raise DemoError(f"lightyard {arguments[0]} ended with exit status {status}")


def _test(console: Console, checkpoint: Path) -> None:
    """Load the checkpoint with Lightning alone, in a process that knows no service, and show what it prints."""
    console.print(f"[bold]$ python {EVALUATE} {escape(str(checkpoint))}[/]")
    result = subprocess.run(
        [sys.executable, EVALUATE, checkpoint], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    if result.returncode != 0 or not result.stdout.strip():
        raise DemoError(f"{EVALUATE} ended with exit status {result.returncode}:\n{result.stdout}{result.stderr}")
    console.print(result.stdout.strip().splitlines()[-1])


@contextmanager
def _stack(environment: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`python -m embedded.serve` with its output in a file; stopped at the end, whatever happened."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "embedded.serve"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C is for this process, which then stops the stack
            preexec_fn=bound_to_parent(signal.SIGTERM),
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _environment(home: Path) -> dict[str, str]:
    """The demo's own stack: its servers and its home, whatever else is set here."""
    return os.environ | {
        "LIGHTYARD_HOME": str(home),
        "LIGHTYARD_HOST": HOST,
        "LIGHTYARD_PORT": str(free_port(HOST)),
        "LIGHTYARD_DATABASE_URL": "",
        "LIGHTYARD_BROKER_URL": "",
        "LIGHTYARD_STORAGE_URL": "",
    }


def _tail(log: Path) -> str:
    return log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace") if log.exists() else "(there is none)"


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
