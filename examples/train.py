"""Train a config by hand: `python examples/train.py fit --config examples/digits.yaml`."""

from pytorch_lightning.cli import LightningCLI

if __name__ == "__main__":
    LightningCLI()
