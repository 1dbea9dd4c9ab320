"""Modules whose results show it if a resumed run differs from an undisturbed one in anything."""

import os
import random
import signal
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.callbacks import BaseFinetuning
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler
from torchmetrics import MeanSquaredError


class Noisy(Dataset[tuple[Tensor, Tensor]]):
    """Each item is changed at random when it is fetched, by all three generators and one of its own."""

    def __init__(self, length: int = 40) -> None:
        self.length = length
        self.own = np.random.default_rng(3)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        noise = torch.randn(4) * 0.1 + random.random() * 0.1 + float(np.random.rand()) * 0.1
        x = torch.full((4,), index / 40) + noise + 0.1 * float(self.own.random())
        return x, x.sum().reshape(1)


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    """Noisy items in their order."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        items = Noisy()
        yield from (items[index] for index in range(len(items)))


class Tape(Stream):
    """A stream that knows where it is."""

    def __init__(self) -> None:
        self.at = 0
        self.items = Noisy()

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        while self.at < len(self.items):
            self.at += 1
            yield self.items[self.at - 1]
        self.at = 0

    def state_dict(self) -> dict[str, Any]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.at = state["at"]


class Endless:
    """No loader of torch's, and no end."""

    def __iter__(self) -> Iterator[list[Tensor]]:
        while True:
            yield [torch.rand(4, 4), torch.rand(4, 1)]


class Moody(Sampler[int]):
    """Draws each index when it is asked for it: by then the steps have drawn too."""

    def __len__(self) -> int:
        return 40

    def __iter__(self) -> Iterator[int]:
        return (random.randrange(40) for _ in range(40))


class Unsized(Sampler[list[int]]):
    """Batches, nobody knows how many."""

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.randperm(40).tolist()
        return (order[first : first + 4] for first in range(0, 40, 4))


class Chatty(DataLoader[Any]):
    """A loader with an iterator of its own, that draws."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        for batch in super().__iter__():
            yield [part + 0.01 * torch.rand(()) for part in batch]


class Meter:
    """A mean, kept by hand."""

    def __init__(self) -> None:
        self.sum = 0.0
        self.count = 0

    def add(self, value: float) -> None:
        self.sum += value
        self.count += 1


class Trial(LightningModule):
    """Kills its process in the training step of number `dies_at`, or in the validation step `dies_validating`.

    Both counted over the whole run; -1: lives. `data` says how the items come.
    """

    def __init__(
        self,
        dies_at: int = -1,
        dies_validating: int = -1,
        num_workers: int = 0,
        items: int = 40,
        data: str = "map",
        step_seconds: float = 0.0,
        validation_step_seconds: float = 0.0,
    ) -> None:
        super().__init__()
        self.dies_at = dies_at
        self.dies_validating = dies_validating
        self.validated = 0
        self.num_workers = num_workers
        self.items = items
        self.data = data
        self.step_seconds = step_seconds
        self.validation_step_seconds = validation_step_seconds

    def maybe_die(self) -> None:
        if self.trainer.fit_loop.epoch_loop.total_batch_idx == self.dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.step_seconds)

    def train_dataloader(self) -> Any:
        workers: dict[str, Any] = {"num_workers": self.num_workers}
        match self.data:
            case "map":
                return DataLoader(Noisy(self.items), batch_size=4, shuffle=True, **workers)
            case "own generator":
                generator = torch.Generator().manual_seed(5)
                return DataLoader(Noisy(), batch_size=4, shuffle=True, generator=generator, **workers)
            case "persistent":
                return DataLoader(Noisy(), batch_size=4, shuffle=True, persistent_workers=True, **workers)
            case "several":
                one = DataLoader(Noisy(28), batch_size=4, shuffle=True)
                return {"one": one, "two": DataLoader(Noisy(), batch_size=4, shuffle=True, **workers)}
            case "stream":
                return DataLoader(Stream(), batch_size=4, **workers)
            case "tape":
                return DataLoader(Tape(), batch_size=4)
            case "moody":
                return DataLoader(Noisy(), batch_size=4, sampler=Moody(), **workers)
            case "unsized":
                return DataLoader(Noisy(), batch_sampler=Unsized(), **workers)
            case "chatty":
                return Chatty(Noisy(), batch_size=4, shuffle=True, **workers)
            case _:
                return Endless()

    def val_dataloader(self) -> DataLoader[Any]:
        lasting = {"num_workers": 1, "persistent_workers": True} if self.data == "persistent" else {}
        return DataLoader(Noisy(16), batch_size=4, **lasting)  # type: ignore[arg-type]

    def on_validation_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        if not self.trainer.sanity_checking:
            self.validated += 1
            if self.validated - 1 == self.dies_validating:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(self.validation_step_seconds)


class Dropping(Trial):
    """Dropout, metrics gathered over the epoch, values logged now and then, draws in hooks, a part in eval mode.

    `scheduler` is "cosine", "cycle" (it counts the steps, so the loader is asked for early) or "plateau".
    """

    def __init__(self, scheduler: str = "cosine", **options: Any) -> None:
        super().__init__(**options)
        self.scheduler = scheduler
        self.net = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.5), nn.ReLU(), nn.BatchNorm1d(16), nn.Linear(16, 1))
        self.error = MeanSquaredError()
        self.own = torch.Generator().manual_seed(7)
        self.weight = 1.0
        self.meter = Meter()
        self.losses: list[Tensor] = []
        self.register_buffer("average", torch.zeros(()))

    def on_train_start(self) -> None:
        torch.rand(3 + self.global_rank)

    def on_train_epoch_start(self) -> None:
        self.net[3].eval()
        self.weight = 1 + 0.1 * self.current_epoch
        if self.trainer.world_size == 1:
            self.net[0].bias.requires_grad_(self.current_epoch > 0)
        self.log("start", torch.rand(()))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.maybe_die()
        x, y = (
            batch if not isinstance(batch, dict) else [torch.cat(parts) for parts in zip(*batch.values(), strict=True)]
        )
        predicted = self.net(x + 0.01 * torch.rand((), generator=self.own))
        loss = self.weight * nn.functional.mse_loss(predicted, y)
        self.losses.append(loss)
        self.meter.add(float(loss))
        self.error(predicted, y)
        self.log("loss", loss, on_step=True, on_epoch=True, batch_size=len(x))
        self.log("error", self.error, on_step=batch_idx % 2 == 0 and False, on_epoch=True)
        if batch_idx % 4 == 1:
            self.log("now_and_then", loss, on_step=True, on_epoch=True, batch_size=len(x))
            self.log("most", loss, on_step=False, on_epoch=True, reduce_fx="max", batch_size=len(x))
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.average = 0.9 * self.average + 0.1 * outputs["loss"] + 0.01 * torch.rand(())

    def on_train_epoch_end(self) -> None:
        self.log("by_hand", torch.stack(self.losses).mean())
        self.log("metered", self.meter.sum / self.meter.count)
        self.losses.clear()

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_loss", nn.functional.mse_loss(self.net(batch[0]), batch[1]) + 0.1 * torch.rand(()))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
        scheduler: Any
        if self.scheduler == "plateau":
            scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "loss_epoch"}}
        if self.scheduler == "cycle":
            steps = int(self.trainer.estimated_stepping_batches)
            scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.02, total_steps=steps + 1)
        else:
            scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=30)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class Unloadable(Dropping):
    """Its checkpoints name a class, so that they load only unsafely."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.save_hyperparameters({"metered_by": Meter})


class Adversaries(Trial):
    """Two optimizers, optimized by hand; the generator's gradients are gathered over two steps."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 4))
        self.critic = nn.Sequential(nn.Linear(4, 8), nn.LeakyReLU(), nn.Linear(8, 1))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.maybe_die()
        generate, judge = self.optimizers()  # type: ignore[misc]
        false = self.generator(torch.randn(len(batch[0]), 2))
        judged = self.critic(batch[0]).mean() - self.critic(false.detach()).mean()
        judge.zero_grad()
        self.manual_backward(judged)
        judge.step()
        made = self.critic(false).mean()
        self.manual_backward(made)
        if batch_idx % 2:
            generate.step()
            generate.zero_grad()
        self.log_dict({"judged": judged, "made": made}, on_step=True, on_epoch=True)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_made", self.critic(self.generator(torch.randn(len(batch[0]), 2))).mean())

    def configure_optimizers(self) -> Any:
        return [
            torch.optim.Adam(self.generator.parameters(), lr=0.01),
            torch.optim.Adam(self.critic.parameters(), lr=0.01),
        ]


class Sought(Dropping):
    """What finders look for: its learning rate and its batch size."""

    def __init__(self, lr: float = 0.01, batch_size: int = 4, **options: Any) -> None:
        super().__init__(**options)
        self.lr = lr
        self.batch_size = batch_size

    def train_dataloader(self) -> Any:
        return DataLoader(Noisy(), batch_size=self.batch_size, shuffle=True)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=self.lr)


class Backboned(Trial):
    """A backbone, frozen at first, and a head; the schedule counts epochs."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.backbone = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU())
        self.head = nn.Linear(8, 1)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        self.maybe_die()
        loss = nn.functional.mse_loss(self.head(self.backbone(batch[0])), batch[1])
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def configure_optimizers(self) -> Any:
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=0.01)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.9)}


class Thawing(BaseFinetuning):
    """Unfreezes the backbone, its batch statistics too, when the second epoch begins."""

    def freeze_before_training(self, pl_module: LightningModule) -> None:
        self.freeze(pl_module.backbone, train_bn=False)  # type: ignore[arg-type]

    def finetune_function(self, pl_module: LightningModule, epoch: int, optimizer: torch.optim.Optimizer) -> None:
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.backbone, optimizer)  # type: ignore[arg-type]
