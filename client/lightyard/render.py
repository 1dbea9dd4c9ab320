"""Records as text for people: one plain line, a table, a live panel."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lightyard.errors import Fault
from lightyard.records import Attempt, Checkpoint, Event, Job, Metric, Reason, Series

STATUS_STYLES = {
    "queued": "yellow", "running": "cyan", "paused": "magenta",
    "succeeded": "green", "failed": "red", "cancelled": "bright_black",
}  # fmt: skip
BARS = "▁▂▃▄▅▆▇█"
# C0, DEL and C1: names and messages come from elsewhere and must not steer the reader's terminal.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def plain(value: object) -> str:
    """Text that shows, and does nothing else: control characters become U+FFFD; None is a dash."""
    return "–" if value is None or value == "" else _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", str(value))


def figure(value: float | None) -> str:
    """A number in at most some eight characters."""
    return "–" if value is None else f"{value:.5g}"


def duration(seconds: float | None) -> str:
    """Seconds as `42 s`, `3:20` or `5:07:00`."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes}:{rest:02}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def size(size_bytes: int) -> str:
    """Bytes as `1.5 MiB`."""
    amount = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def moment(at: datetime | None) -> str:
    """A time in the reader's own zone, to the second."""
    return "–" if at is None else at.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def sparkline(values: Iterable[float | None], width: int = 60) -> str:
    """A series as one line of bars; values that are not finite leave gaps. Buckets of equal count, by their mean."""
    points = [value if value is not None and math.isfinite(value) else None for value in values]
    per_bar = max(1, math.ceil(len(points) / width))
    buckets = [[v for v in points[at : at + per_bar] if v is not None] for at in range(0, len(points), per_bar)]
    means = [sum(bucket) / len(bucket) if bucket else None for bucket in buckets]
    known = [mean for mean in means if mean is not None]
    if not known:
        return ""
    low, span = min(known), max(known) - min(known)
    top = len(BARS) - 1
    return "".join(" " if m is None else BARS[round((m - low) / span * top) if span else top // 2] for m in means)


def job_line(job: Job) -> str:
    """A job's state in one line."""
    progress = job.progress
    parts = [job.id, job.status if not job.phase or job.ended else f"{job.status}/{job.phase}"]
    if progress.epoch is not None:
        parts.append(f"epoch {progress.epoch}")
    if progress.global_step is not None:
        parts.append(f"step {progress.global_step}" + (f"/{progress.max_steps}" if progress.max_steps else ""))
    if not job.ended and progress.steps_per_second is not None:
        parts.append(f"{figure(progress.steps_per_second)} steps/s")
    if not job.ended and progress.eta_seconds is not None:
        parts.append(f"eta {duration(progress.eta_seconds)}")
    parts += [f"{name}={figure(value)}" for name, value in job.metrics.items()]
    parts += waiting(job)
    return plain("  ".join(parts))


def waiting(job: Job) -> list[str]:
    """What a queued job waits for, if it says, and the requests that have not been met yet."""
    told = job.raw.get("waiting")
    words = []
    if not job.ended:
        requests = {
            "cancel": job.cancel_requested_at,
            "pause": job.pause_requested_at,
            "checkpoint": job.checkpoint_requested_at,
        }
        words += [f"{name} requested" for name, at in requests.items() if at]
    if job.status == "queued" and isinstance(told, Mapping):
        place = f"position {told['position']}" if told.get("position") is not None else ""
        words.append(": ".join(part for part in (place, str(told.get("reason") or "")) if part))
    return [word for word in words if word]


def reason_text(reason: Reason) -> str:
    """Why a job is as it is, with the traceback where there is one."""
    text = f"{reason.code}: {reason.message}"
    return plain(f"{text}\n{reason.traceback.rstrip()}" if reason.traceback else text)


def job_panel(job: Job) -> RenderableType:
    """A running job for a terminal: state, progress bar, latest metrics."""
    progress = job.progress
    head = Text.assemble(
        (plain(job.id), "bold"), "  ", plain(job.name) if job.name else "", "  ",
        (plain(job.status), STATUS_STYLES.get(job.status, "")), f"  {plain(job.phase)}" if job.phase else "",
    )  # fmt: skip
    rows: list[RenderableType] = [head]
    fraction = progress.fraction
    if fraction is not None and math.isfinite(fraction):
        line = Table.grid(padding=(0, 1))
        line.add_row(ProgressBar(total=1.0, completed=fraction, width=40), f"{fraction:4.0%}")
        rows.append(line)
    rows.append(Text(job_line(job).partition("  ")[2]))
    return Group(*rows)


def job_details(job: Job) -> Table:
    """A job's fields, one a row."""
    progress = job.progress
    attempts = "; ".join(map(_attempt, job.attempts))
    fields: dict[str, object] = {
        "id": job.id,
        "name": job.name,
        "status": job.status,
        "phase": job.phase,
        "waiting": ", ".join(waiting(job)) or None,
        "epoch": progress.epoch,
        "step": None if progress.global_step is None else f"{progress.global_step} of {progress.max_steps or '–'}",
        "steps/s": None if progress.steps_per_second is None else figure(progress.steps_per_second),
        "eta": None if progress.eta_seconds is None or job.ended else duration(progress.eta_seconds),
        "metrics": "  ".join(f"{name}={figure(value)}" for name, value in job.metrics.items()) or None,
        "best checkpoint": job.best_checkpoint_id,
        "last checkpoint": job.last_checkpoint_id,
        "attempts": attempts or None,
        "labels": " ".join(f"{name}={value}" for name, value in job.labels.items()) or None,
        "priority": job.priority,
        "parent": job.parent_id,
        "created": moment(job.created_at) if job.created_at else None,
        "started": moment(job.started_at) if job.started_at else None,
        "finished": moment(job.finished_at) if job.finished_at else None,
        "reason": reason_text(job.reason) if job.reason else None,
    }
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in fields.items():
        if value is not None:
            table.add_row(Text(name, style="bold"), Text(plain(value), STATUS_STYLES.get(str(value), "")))
    return table


def jobs_table(jobs: Iterable[Job]) -> Table:
    """Jobs, one a row."""
    rows = [
        (
            job.id, job.name, Text(plain(job.status), STATUS_STYLES.get(job.status, "")), job.phase,
            None if job.progress.fraction is None else f"{job.progress.fraction:.0%}", moment(job.created_at),
        )
        for job in jobs
    ]  # fmt: skip
    return table(("id", "name", "status", "phase", "done", "created"), rows)


def faults_table(faults: Iterable[Fault]) -> Table:
    """What is wrong with a body, one fault a row."""
    rows = [(fault.pointer or "(the whole)", fault.code, fault.message) for fault in faults]
    return table(("pointer", "code", "message"), rows)


def metrics_table(metrics: Iterable[Metric]) -> Table:
    """Metrics in short, one a row."""
    rows = [(m.name, m.count, m.last_step, figure(m.last), figure(m.min), figure(m.max)) for m in metrics]
    return table(("metric", "points", "last step", "last", "min", "max"), rows)


def series_table(series: Series) -> Table:
    """A metric's points, one a row."""
    rows = [(point.step, point.epoch, figure(point.value), moment(point.at)) for point in series.points]
    return table(("step", "epoch", series.name, "at"), rows)


def checkpoints_table(checkpoints: Iterable[Checkpoint]) -> Table:
    """Checkpoints, one a row."""
    rows = []
    for one in checkpoints:
        marks = [
            word for word, is_so in (("best", one.is_best), ("last", one.is_last), ("pinned", one.pinned)) if is_so
        ]
        values = " ".join(f"{name}={figure(value)}" for name, value in one.metrics.items())
        rows.append((one.id, one.kind, one.epoch, one.step, size(one.size_bytes), " ".join(marks), values))
    return table(("id", "kind", "epoch", "step", "size", "is", "metrics"), rows)


def event_line(event: Event) -> str:
    """An event in one line."""
    data = "  ".join(f"{name}={value}" for name, value in event.data.items() if value is not None)
    return plain(f"{moment(event.at)}  {event.type}  {data}".rstrip())


def workers_table(workers: Iterable[Mapping[str, Any]]) -> Table:
    """Workers, one a row."""
    rows = []
    for worker in workers:
        devices = [device for device in worker.get("devices") or () if isinstance(device, Mapping)]
        # A device may be busy with a job of another project, which has no name here.
        doing = [f"{device.get('id')}: {device.get('job_id') or 'busy'}" for device in devices if device.get("busy")]
        names = ", ".join(map(_device, devices))
        rows.append((worker.get("name") or worker.get("id"), worker.get("status"), names, ", ".join(doing)))
    return table(("worker", "status", "devices", "doing"), rows)


def catalog_table(entries: Iterable[Mapping[str, Any]]) -> Table:
    """Classes of the catalogue, one a row."""
    rows = [(one.get("kind"), one.get("class_path"), one.get("summary")) for one in entries]
    return table(("kind", "class", "what it is"), rows)


def class_details(entry: Mapping[str, Any]) -> Group:
    """One class of the catalogue: its docstring, and a row for each argument."""
    schema = entry.get("schema")
    properties = schema.get("properties", {}) if isinstance(schema, Mapping) else {}
    required = set(schema.get("required", ())) if isinstance(schema, Mapping) else set()
    rows = []
    for name, argument in properties.items():
        argument = argument if isinstance(argument, Mapping) else {}
        default = "required" if name in required else argument.get("default")
        rows.append((name, _type(argument), "null" if default is None else default, argument.get("description")))
    head = Text.assemble((plain(entry.get("class_path")), "bold"), f"  {plain(entry.get('kind'))}")
    body = Text(plain(str(entry.get("doc") or "").strip()))
    return Group(head, body, table(("argument", "type", "default", "meaning"), rows))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """A table without lines, of text that does nothing but show."""
    made = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else Text(plain(cell)) for cell in row))
    return made


def _attempt(attempt: Attempt) -> str:
    told = f"{attempt.number}: {attempt.outcome or 'running'} on {attempt.worker or '–'}"
    if attempt.resume is None:
        return told
    return f"{told} ({attempt.resume}, {attempt.steps_lost or 0} steps again)"


def _device(device: Mapping[str, Any]) -> str:
    identity, name = device.get("id"), device.get("name")
    return f"{identity} ({name})" if name and name != identity else str(identity)


def _type(schema: Mapping[str, Any]) -> str:
    choices = schema.get("anyOf") or schema.get("oneOf")
    if isinstance(choices, Sequence) and not isinstance(choices, str):
        return " | ".join(_type(one) for one in choices if isinstance(one, Mapping))
    if isinstance(schema.get("enum"), Sequence):
        return " | ".join(str(one) for one in schema["enum"])
    kind = schema.get("type", "any")
    return " | ".join(map(str, kind)) if isinstance(kind, list) else str(kind)
