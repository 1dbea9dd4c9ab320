"""A module that saves checkpoints itself, whenever it thinks fit."""

from pathlib import Path

from models.vision import ImageClassifier


class SavesItself(ImageClassifier):
    """An image classifier that keeps what it was after its first epoch."""

    def on_train_epoch_end(self) -> None:
        """A path within the working directory becomes the checkpoint's name."""
        if self.current_epoch == 0:
            self.trainer.save_checkpoint("first/epoch.ckpt")


class NamesItsFolder(ImageClassifier):
    """An image classifier whose hyperparameters have a Path, for which its checkpoints load only by running code."""

    def __init__(self, folder: str = "results", width: int = 8) -> None:
        super().__init__(width=width)
        self.save_hyperparameters({"folder": Path(folder)})
