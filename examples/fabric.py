"""Run a loop on Lightning Fabric by hand: `python examples/fabric.py --config examples/lessons/fabric.yaml`.

The same file is a job: `lightyard submit examples/lessons/fabric.yaml`. What the loop saves goes to the current folder.
"""

from typing import Protocol

from jsonargparse import ArgumentParser
from lightning_fabric import Fabric, seed_everything


class Loop(Protocol):
    """What is run."""

    def run(self, fabric: Fabric, ckpt_path: str | None = None) -> None:
        """Train, from the beginning or from a checkpoint."""


if __name__ == "__main__":
    parser = ArgumentParser()
    parser.add_argument("--config", action="config")
    parser.add_argument("--seed_everything", type=int, default=0)
    parser.add_subclass_arguments(Loop, "model")
    parser.add_class_arguments(Fabric, "trainer")
    parser.add_argument("--ckpt_path", type=str | None)
    config = parser.parse_args()
    seed_everything(config.seed_everything, workers=True)
    made = parser.instantiate(config)
    made.trainer.launch(made.model.run, ckpt_path=config.ckpt_path)
