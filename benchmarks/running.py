"""Jobs that run, as far as anybody but a worker can tell: claimed for ever, with progress, metrics and a summary."""

from collections.abc import Sequence

from sqlalchemy import select

from benchmarks import digits
from core.attempts import Attempts
from core.claims import Claim, Claims
from core.database import Database
from core.fleet import Fleet
from core.ids import new_id
from core.job import NewJob
from core.jobs import Jobs
from core.tables import projects

LEASE_SECONDS = 86400.0
CLASSES = ("models.data.Digits", "models.vision.ImageClassifier")
SUMMARY = {
    "parameters": 109_386,
    "trainable_parameters": 109_386,
    "batch_size": 64,
    "effective_batch_size": 64,
    "precision_asked": "32-true",
    "precision": "32-true",
    "accelerator": "cpu",
    "devices": 1,
    "nodes": 1,
    "world_size": 1,
    "strategy": "SingleDeviceStrategy",
    "automatic_optimization": True,
    "optimizers": ["torch.optim.AdamW"],
    "lr_schedulers": ["torch.optim.lr_scheduler.CosineAnnealingLR"],
    "estimated_steps": 230,
}
METRICS = ("train_loss", "train_loss_epoch", "lr-AdamW", "val_loss", "val_acc", "epoch")


def running(database: Database, count: int) -> Sequence[Claim]:
    """So many jobs with the config of the digits example, each held on a CPU slot of one worker."""
    with database.read() as connection:
        project_id = connection.execute(select(projects.c.id)).scalar_one()
    jobs, claims, attempts = Jobs(database), Claims(database), Attempts(database)
    fleet, worker_id = Fleet(database), new_id("wrk")
    slots = [{"id": f"cpu:{index}", "name": "CPU", "memory_bytes": 2**30} for index in range(count)]
    fleet.join(worker_id, "box", 1, slots, {"torch": "2.13.0", "pytorch_lightning": "2.6.6"})
    held = []
    for number in range(count):
        new = NewJob(digits.config(), CLASSES, "cpu", 1, 86400.0, 5, name=f"digits-{number}", labels={"team": "vision"})
        with database.write() as connection:
            jobs.create(connection, project_id, new)
        claim = claims.claim(worker_id, "box", LEASE_SECONDS, lambda _paths: True)
        assert claim is not None
        step(database, attempts, claim, 100, summary=SUMMARY)
        held.append(claim)
    return held


def step(database: Database, attempts: Attempts, claim: Claim, global_step: int, **values: object) -> None:
    """Report progress, as a supervisor does four times a second."""
    progress = {
        "epoch": 4,
        "global_step": global_step,
        "max_steps": 230,
        "fraction": global_step / 230,
        "steps_per_second": 211.5,
        "eta_seconds": 0.6,
    }
    metrics = {name: 0.125 + index for index, name in enumerate(METRICS)}
    with database.write() as connection:
        attempts.note(connection, claim.job.id, claim.token, progress=progress, metrics=metrics, **values)
