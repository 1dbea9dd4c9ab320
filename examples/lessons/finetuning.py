"""A module whose backbone is frozen at first: its optimizer is given what is to be trained from the start."""

import torch

from lessons.backbone import Classifier


class FineTuned(Classifier):
    """BackboneFinetuning freezes `backbone` before the optimizer is made, and adds it when its epoch has come."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam([one for one in self.parameters() if one.requires_grad], lr=1e-2)
