"""Jobs per minute of a job of one batch, with one slot to run on, against the same run as a script in a loop."""

import statistics
import time
from datetime import datetime
from pathlib import Path

from benchmarks.digits import Script, config, ended, service, submit
from benchmarks.figure import Figure
from tests.stack import Stack

ROUNDS = 3
JOBS_A_ROUND = 12
TIMES = 20.0
ONE_BATCH = {"max_steps": 1, "limit_val_batches": 0, "num_sanity_val_steps": 0, "callbacks": None}
"""One step, then Lightning's own checkpoint, as by default."""


def measure(folder: Path) -> list[Figure]:
    """A round of jobs submitted all at once, then the script, by turns."""
    job = config(**ONE_BATCH)
    script = Script(folder / "script", job)
    ours, theirs = [], []
    with service(folder / "stack") as stack:
        jobs_per_minute(stack, job, 2)  # what is read from the disk for the first time is none of a warm worker's
        for _ in range(ROUNDS):
            theirs.append(60 / script.seconds())
            ours.append(jobs_per_minute(stack, job, JOBS_A_ROUND))
    met = statistics.median(ours) >= TIMES * statistics.median(theirs)
    return [
        Figure(
            number=2,
            what="jobs of one batch and a checkpoint, one slot, submitted all at once",
            unit="jobs/min",
            ours=ours,
            aim=f"≥ {TIMES:g} ×",
            met=met,
            peer="python train.py in a loop",
            theirs=theirs,
            note="Lightning's own building and fitting of one batch; then the durable commits of each job",
        )
    ]


def jobs_per_minute(stack: Stack, job: dict[str, object], count: int) -> float:
    """From the first POST to the end of the last of so many jobs, as the service tells it."""
    began = time.time()
    submitted = [submit(stack, job) for _ in range(count)]
    last = max(datetime.fromisoformat(ended(stack, one)["finished_at"]).timestamp() for one in submitted)
    return 60 * count / (last - began)
