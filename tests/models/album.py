"""A logger that takes pictures and texts by TensorBoard's calls, and keeps them."""

from typing import Any

from pytorch_lightning.loggers.logger import DummyLogger
from torch import Tensor


class Album(DummyLogger):
    """Is its own experiment."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[tuple[str, Any, int]] = []

    @property
    def experiment(self) -> Any:
        return self

    def add_image(self, tag: str, picture: Tensor, step: int) -> None:
        self.kept.append((tag, picture, step))

    def add_text(self, tag: str, text: str, step: int) -> None:
        self.kept.append((tag, text, step))
