"""The doorbell: what the API sends to tell workers that there is work, and where they listen for it."""

TASK = "lightyard.work"
"""Name of the Celery task. Its one argument is the id of the job that rang; what runs is what the claim finds."""


def queue_of(accelerator: str) -> str:
    """The Celery queue of the jobs that ask for an accelerator: `auto`, `cpu`, `gpu`, `tpu` or `mps`."""
    return f"lightyard.{accelerator}"


def queue_of_worker(worker_id: str) -> str:
    """The Celery queue of one worker alone."""
    return f"lightyard.worker.{worker_id}"
