"""Learning-rate schedules that a module makes itself: then it says how often each is stepped, and by what."""

from typing import Any, Literal

import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, OneCycleLR, ReduceLROnPlateau, SequentialLR

from lessons.witness import Witness


class Scheduled(Witness):
    """Watches its own learning rate go."""

    def __init__(self, schedule: Literal["one_cycle", "warm_up", "plateau"] = "warm_up", lr: float = 0.1) -> None:
        super().__init__(lr=lr)
        self.schedule = schedule

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=self.lr)
        steps = int(self.trainer.estimated_stepping_batches)
        if self.schedule == "plateau":  # looks at a metric, every second epoch
            plateau = ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=10.0)
            settings = {"scheduler": plateau, "monitor": "val_loss", "interval": "epoch", "frequency": 2}
            return {"optimizer": optimizer, "lr_scheduler": settings}
        scheduler: Any
        if self.schedule == "one_cycle":
            scheduler = OneCycleLR(optimizer, max_lr=self.lr, total_steps=steps)
        else:
            warm_up = LinearLR(optimizer, start_factor=0.1, total_iters=4)
            decay = CosineAnnealingLR(optimizer, T_max=steps - 4)
            scheduler = SequentialLR(optimizer, [warm_up, decay], milestones=[4])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
