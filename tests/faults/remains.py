"""What may be left when jobs have ended: no process, no row, and no file that belongs to nobody."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
from sqlalchemy import create_engine, select

from core.states import FINAL, Status
from core.tables import attempts, checkpoints, device_claims, jobs
from tests.faults.run import Evidence
from tests.faults.world import GONE, TRAINER, World
from workers.rundir import RunDir


def files_match_rows(evidence: Evidence) -> Iterator[str]:
    """Every file that is told of is there and whole; every file that is there is told of; no draft is left."""
    caller = evidence.caller
    for job_id in evidence.jobs:
        folder = evidence.world.store / "jobs" / job_id
        rows = caller.all(f"/v1/jobs/{job_id}/checkpoints")
        for row in rows:
            answer = caller.ask("GET", f"/v1/checkpoints/{row['id']}/content")
            content = answer.content if answer is not None and answer.is_success else b""
            if hashlib.sha256(content).hexdigest() != row["sha256"] or len(content) != row["size_bytes"]:
                yield f"{job_id}: {row['id']} ({row['kind']}, step {row['step']}) cannot be downloaded whole"
        if evidence.jobs[job_id]["status"] == "succeeded":
            for row in rows:
                if row["kind"] == "recovery":
                    yield f"{job_id} has succeeded and keeps the recovery checkpoint {row['id']}"
        known = {f"{row['id']}.ckpt" for row in rows}
        for path in sorted(_files(folder / "checkpoints")):
            if path.name not in known:
                yield f"{job_id}: no row knows {path.relative_to(evidence.world.store)}"
        told = Counter(row["sha256"] for row in caller.all(f"/v1/jobs/{job_id}/artifacts"))
        there = Counter(hashlib.sha256(path.read_bytes()).hexdigest() for path in _files(folder / "artifacts"))
        if told != there:
            yield f"{job_id}: {told.total()} artifacts are told of, {there.total()} files are there"


def no_orphan_process(evidence: Evidence) -> Iterator[str]:
    """No trainer runs whose job has ended, and nothing lives that a dead process of the stack started."""
    world = evidence.world
    family = {process.pid for name in (*world.stack.processes,) for process in world.family(name)}
    trainers = {mark.pid for marks in evidence.marks.values() for mark in marks}
    for process in psutil.process_iter(["cmdline", "status"]):
        try:
            session = os.getsid(process.pid)
        except (ProcessLookupError, *GONE):
            continue
        title = " ".join(process.info["cmdline"] or []).strip()
        job = TRAINER.match(title)
        ours = session in world.sessions or session in trainers or (job is not None and job[1] in evidence.submitted)
        if not ours or process.info["status"] == psutil.STATUS_ZOMBIE:
            continue
        if process.pid not in family:
            yield f"process {process.pid} ({title!r}, session {session}) has lost those that started it"
        elif job is not None and job[1] in evidence.jobs:
            yield f"process {process.pid} ({title!r}) still runs, though its job has ended"


def no_orphan_row(evidence: Evidence) -> Iterator[str]:
    """No device is held, and no attempt is live, for a job that has ended; no pointer leads nowhere."""
    engine = create_engine(evidence.world.stack.database_url)
    ids = list(evidence.jobs)
    ended = jobs.c.status.in_([str(Status(status)) for status in FINAL]) & jobs.c.id.in_(ids)
    with engine.connect() as connection:
        held = select(device_claims).join(jobs, jobs.c.id == device_claims.c.job_id).where(ended)
        for row in connection.execute(held):
            yield f"{row.job_id} has ended and holds {row.device} of {row.worker_id}"
        live = select(attempts.c.job_id, attempts.c.number).join(jobs, jobs.c.id == attempts.c.job_id)
        for row in connection.execute(live.where(ended, attempts.c.ended_at.is_(None))):
            yield f"{row.job_id} has ended and its attempt {row.number} is live"
        for pointer in (jobs.c.best_checkpoint_id, jobs.c.last_checkpoint_id):
            lost = select(jobs.c.id, pointer).where(
                ended, pointer.is_not(None), pointer.not_in(select(checkpoints.c.id))
            )
            for row in connection.execute(lost):
                yield f"{row.id}: its {pointer.name} {row[1]} is no checkpoint"
    engine.dispose()


def unsettled(world: World) -> list[Path]:
    """Run directories in which something ran, and that no worker has marked as needed by nobody any more."""
    orders = (path for worker in world.workers for path in world.runs(worker).glob("job_*/attempt-*/job.json"))
    return sorted(path.parent for path in orders if not RunDir(path.parent).ended.exists())


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
