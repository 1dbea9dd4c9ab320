"""The doorbell: what the API sends to tell workers that there is work, and where they listen for it."""

TASK = "lightyard.work"
"""Name of the Celery task. Its one argument is the id of the job that rang; what runs is what the claim finds."""


COMING = "lightyard.coming"
"""Fanout exchange that tells all workers of a job which is about to be queued: its `accelerator` and its `config`, as
JSON text. It says only that a claim is likely, so whoever misses it misses nothing but time."""
COMING_BYTES_MAX = 32 * 1024
"""Longer configs are not told: they are read when the run is there."""


def queue_of(accelerator: str) -> str:
    """The Celery queue of the jobs that ask for an accelerator: `auto`, `cpu`, `gpu`, `tpu` or `mps`."""
    return f"lightyard.{accelerator}"


def queue_of_worker(worker_id: str) -> str:
    """The Celery queue of one worker alone."""
    return f"lightyard.worker.{worker_id}"
