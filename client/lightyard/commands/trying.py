"""`lightyard submit --dry-run`: one batch of everything, and what was found."""

from rich.text import Text

from lightyard.client import Client
from lightyard.commands.session import ExitCode, Screen
from lightyard.dry_run import DryRun
from lightyard.overrides import Overrides
from lightyard.render import duration, figure, plain, reason_text, table
from lightyard.submission import Source

ENDS = {"succeeded": ExitCode.OK, "cancelled": ExitCode.JOB_CANCELLED}


def try_out(client: Client, screen: Screen, source: Source, overrides: Overrides, key: str) -> ExitCode:
    """Have the service try a job, and tell what it found."""
    told: set[str] = set()

    def tell(found: DryRun) -> None:
        if found.waiting is not None and found.waiting not in told:
            told.add(found.waiting)
            screen.note(f"{found.job_id} waits: {plain(found.waiting)}")
            screen.note(f"Ctrl-C leaves it to wait; lightyard cancel {found.job_id} ends it")

    found = client.dry_run(source, overrides=overrides, idempotency_key=key, on_wait=tell)
    if screen.as_json:
        screen.document(dict(found.raw))
    else:
        _show(screen, found)
    return ENDS.get(found.status, ExitCode.JOB_FAILED)


def _show(screen: Screen, found: DryRun) -> None:
    rows = [
        (
            one.phase,
            Text("ok", "green") if one.ok else Text("failed", "red"),
            one.batches,
            duration(one.seconds),
            "  ".join(f"{name}={figure(value)}" for name, value in one.metrics.items()),
        )
        for one in found.phases
    ]
    if rows:
        screen.show(table(("phase", "", "batches", "seconds", "logged"), rows))
    for warning in found.warnings:
        screen.show(f"warning: {plain(warning)}")
    if found.reason is not None:
        screen.show(reason_text(found.reason))
    screen.show("the dry run found nothing wrong" if found.ok else f"the dry run {plain(found.status)}")
