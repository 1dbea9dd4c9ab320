"""From POST to the first training step on a warm worker, against the same run as a script and through Ray Jobs.

The clocks are the client's when it begins to send, and the trainer's own at the beginning of its first step, as the
event `first_step` tells it; of a script, its starter's, and that of a callback in the same place.
"""

import statistics
import time
from datetime import datetime
from pathlib import Path

from benchmarks.digits import Script, config, ended, service, submit
from benchmarks.environments import Missing
from benchmarks.figure import Figure
from benchmarks.ray_jobs import ray_jobs
from tests.stack import Stack

ROUNDS = 3
JOBS_A_ROUND = 4
RAY_JOBS = 2
SETTLE_SECONDS = 2.0
"""Between two jobs, so that what the one before has left to do is none of the next one's time."""
UNSEEN_SECONDS = 0.7
"""Nobody looks at the job until its first step is over: who does takes a share of two cores."""
SHARE = 0.03
SECONDS = 0.15
WHAT = "POST → first training step, digits example, warm worker"


def measure(folder: Path) -> list[Figure]:
    """Ours and the script by turns, then Ray, whose head would take its share of the cores."""
    job = config(max_epochs=1)
    script = Script(folder / "script", job)
    ours, theirs = [], []
    with service(folder / "stack") as stack:
        seconds_to_step(stack, job)  # what is read from the disk for the first time is none of a warm worker's
        script.seconds_to_step()
        for _ in range(ROUNDS):
            theirs.append(script.seconds_to_step())
            ours += [seconds_to_step(stack, job) for _ in range(JOBS_A_ROUND)]
    median = statistics.median(ours)
    met = median <= SHARE * statistics.median(theirs) and median <= SECONDS
    aim = f"≤ {SHARE:g} × the script, median ≤ {SECONDS:g} s"
    note = "building Trainer, model and data from the config, the sanity check, then the queue's transactions"
    figures = [Figure(1, WHAT, "s", ours, aim, met, "python train.py, cold", theirs, note)]
    try:
        figures.append(Figure(1, WHAT, "s", ours, peer="Ray Jobs, REST", theirs=_through_ray(script)))
    except Missing as missing:
        figures.append(Figure(1, WHAT, "s", ours, peer="Ray Jobs, REST", note=str(missing)))
    return figures


def seconds_to_step(stack: Stack, job: dict[str, object]) -> float:
    """How long a job takes to its first step; returns when it has ended."""
    began = time.time()
    job_id = submit(stack, job)
    time.sleep(UNSEEN_SECONDS)
    ended(stack, job_id)
    events = stack.client.get(f"/v1/jobs/{job_id}/events", params={"limit": 200}).json()["data"]
    at = next(event["at"] for event in events if event["type"] == "first_step")
    time.sleep(SETTLE_SECONDS)
    return datetime.fromisoformat(at).timestamp() - began


def _through_ray(script: Script) -> list[float]:
    found = []
    with ray_jobs() as ray:
        for _ in range(RAY_JOBS):
            script.stamps_path.unlink(missing_ok=True)
            began = time.time()
            submission = ray.submit(script.command, script.environment)
            assert submission is not None, "Ray takes no job any more"
            found.append(script.first_stamp() - began)
            ray.stop(submission)
    return found
