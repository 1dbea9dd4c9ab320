"""How long the training loop stands still for a checkpoint that is written, hashed and stored, and by hand written."""

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.by_hand import ByHand
from benchmarks.digits import ended, service, submit
from benchmarks.figure import Figure

SIZE_BYTES = 500 * 10**6
STEPS_BETWEEN = 120
SAVES = 5
TURNS = 2
AIM = 1.1


def measure(folder: Path) -> list[Figure]:
    """The figures of group 13."""
    ours, theirs, our_steps, their_steps = [], [], [], []
    with (
        ByHand(folder / "hand") as by_hand,
        service(folder / "stack", LIGHTYARD_CATALOG_MODULES="models,benchmarks.timed") as stack,
    ):

        def job(config: dict[str, Any]) -> None:
            job_id = ended(stack, submit(stack, config))["id"]
            last = stack.client.get(f"/v1/jobs/{job_id}/checkpoints").json()["data"][0]
            assert last["size_bytes"] > SIZE_BYTES
            assert len(last["sha256"]) == 64
            stack.client.delete(f"/v1/jobs/{job_id}").raise_for_status()

        for turn in range(TURNS):
            stalls, steps = _run(folder / f"hand-{turn}.json", by_hand.run, logger=False)
            theirs += stalls
            their_steps += steps
            by_hand.clear()
            stalls, steps = _run(folder / f"job-{turn}.json", job)
            ours += stalls
            our_steps += steps
    return [
        Figure(
            13,
            "training stands still for each save of a 500 MB checkpoint, which is written, hashed and stored",
            "s",
            ours,
            aim=f"≤ {AIM} ×",
            met=statistics.median(ours) <= AIM * statistics.median(theirs),
            peer="ModelCheckpoint by hand, which writes it",
            theirs=theirs,
            note="torch.save: a copy into the page cache",
        ),
        Figure(
            13,
            f"the {STEPS_BETWEEN} steps between two saves, while it is hashed and stored",
            "s",
            our_steps,
            peer="the same by hand",
            theirs=their_steps,
            note="hashing takes turns with training on a machine whose cores training fills",
        ),
    ]


def _run(stamps: Path, run: Callable[[dict[str, Any]], None], **flags: Any) -> tuple[list[float], list[float]]:
    """Seconds of each stall, less those that a step takes anyway, and of the steps between two saves."""
    arguments = {"stamps": str(stamps), "size_bytes": SIZE_BYTES, "steps": SAVES * STEPS_BETWEEN + STEPS_BETWEEN}
    model = {"class_path": "benchmarks.timed.Heavy", "init_args": arguments}
    saving = {"class_path": "ModelCheckpoint", "init_args": {"every_n_train_steps": STEPS_BETWEEN, "save_top_k": 1}}
    trainer = {"max_epochs": 1, "callbacks": [saving], "enable_model_summary": False} | flags
    run({"seed_everything": 1, "model": model, "trainer": trainer})
    began, done = zip(*json.loads(stamps.read_text()), strict=True)
    pauses = [after - before for before, after in zip(done[:-1], began[1:], strict=True)]
    usual = statistics.median(pauses)
    last_of = range(STEPS_BETWEEN - 1, SAVES * STEPS_BETWEEN, STEPS_BETWEEN)
    stalls = [pauses[step] - usual for step in last_of]
    between = [done[step + STEPS_BETWEEN] - began[step + 1] for step in last_of]
    return stalls, between
