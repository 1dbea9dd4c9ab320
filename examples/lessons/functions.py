"""Functions that callbacks call: a config names them by their path, in the place of a lambda."""

from typing import Any

from pytorch_lightning import LightningModule, Trainer


def samples(batch: Any) -> int:
    """How many samples a batch has, for ThroughputMonitor."""
    return len(batch[0])


def say_how_far(trainer: Trainer, pl_module: LightningModule) -> None:
    """For LambdaCallback: a line of the job's log."""
    print(f"trained for {trainer.global_step} steps")


def every_second(epoch: int) -> bool:
    """When ModelPruning prunes."""
    return epoch % 2 == 1
