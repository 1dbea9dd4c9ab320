"""Runs by hand: of a model on its data, and of an example's file."""

from pathlib import Path
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.cli import LightningCLI

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def trainer(folder: Path, **flags: Any) -> Trainer:
    """A Trainer on the CPU with nothing on the screen and, unless told otherwise, nothing on the disk."""
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    return Trainer(accelerator="cpu", devices=1, default_root_dir=folder, **{**quiet, **flags})


def command_line(example: str, folder: Path, **overrides: Any) -> LightningCLI:
    """LightningCLI as `examples/train.py` uses it, with its files in `folder` and nothing on the screen."""
    flags = {"default_root_dir": folder, "enable_progress_bar": "false", "enable_model_summary": "false"} | overrides
    arguments = [text for name, value in flags.items() for text in (f"--trainer.{name}", str(value))]
    return LightningCLI(args=["--config", str(EXAMPLES / example), *arguments], run=False, save_config_callback=None)
