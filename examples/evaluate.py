"""Test a digits checkpoint with Lightning alone: `python examples/evaluate.py digits-best.ckpt`.

A checkpoint from Lightyard is a plain Lightning one, and nothing here knows the service.
"""

import sys
from pathlib import Path

from pytorch_lightning import Trainer

from models.data import Digits
from models.vision import ImageClassifier


def main() -> None:
    """Print the accuracy on the test split, which neither training nor the choice of the checkpoint has seen."""
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/evaluate.py CHECKPOINT")
    model = ImageClassifier.load_from_checkpoint(Path(sys.argv[1]), map_location="cpu", weights_only=True)
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    [scores] = trainer.test(model, datamodule=Digits(), verbose=False)
    print(f"test accuracy: {scores['test_acc']:.4f}")


if __name__ == "__main__":
    main()
