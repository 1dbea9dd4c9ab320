"""Pictures that a model shows of its work.

Shapes: N images, C channels, H rows, W columns.
"""

import torch.nn.functional as F
from pytorch_lightning import LightningModule
from torch import Tensor


def grid(x_NCHW: Tensor, columns: int, zoom: int = 4) -> Tensor:
    """One picture (C, height, width) of many, row by row, each pixel a square of `zoom` pixels.

    Images are between 0 and 1; the lines between them are grey, and so are places that are left over.
    """
    N, C, H, W = x_NCHW.shape
    rows = -(-N // columns)
    framed = F.pad(x_NCHW.detach().clamp(0, 1), [0, 1, 0, 1], value=0.5)
    filled = F.pad(framed, [0, 0, 0, 0, 0, 0, 0, rows * columns - N], value=0.5)
    table = filled.view(rows, columns, C, H + 1, W + 1).permute(2, 0, 3, 1, 4).reshape(C, rows * (H + 1), -1)
    return table[:, :-1, :-1].repeat_interleave(zoom, dim=1).repeat_interleave(zoom, dim=2)


def show(module: LightningModule, tag: str, picture_CHW: Tensor) -> None:
    """Hand a picture to the logger, if it takes pictures by TensorBoard's call; CSVLogger, for one, does not."""
    experiment = getattr(module.logger, "experiment", None)
    if experiment is not None and hasattr(experiment, "add_image"):
        experiment.add_image(tag, picture_CHW.float().cpu(), module.global_step)
