"""Every remedy against the error that it is for, raised by Lightning itself."""

from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import GradientAccumulationScheduler
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from workers.trainer.remedies import ignored_hooks, remedy


class Outdated(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.layer(batch[0]).square().mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.layer(batch[0]).mean())

    test_step = validation_step

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(torch.ones(4, 4)), batch_size=2)

    val_dataloader = test_dataloader = train_dataloader


class ByHand(Outdated):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        optimizer.step()


def raised(
    base: type[Outdated] = Outdated,
    *,
    call: str = "fit",
    callback: Callback | None = None,
    flags: Any = None,
    **members: Any,
) -> BaseException:
    """What a Trainer raises over a module of the user's that has these members."""
    module = type("Old", (base,), members)
    flags = {"enable_checkpointing": False} | (flags or {})
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(max_epochs=1, accelerator="cpu", callbacks=callback, **quiet, **flags)
    with pytest.raises(Exception) as caught:  # noqa: PT011  # what it is, is the question
        getattr(trainer, call)(module())
    return caught.value


def two_optimizers(self: Outdated) -> Any:
    return [torch.optim.SGD(self.parameters(), lr=0.1) for _ in range(2)]


def scheduled(self: Outdated) -> Any:
    optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
    return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]


def step(body: Callable[[Outdated, Any], Any]) -> Any:
    return lambda self, batch, batch_idx: body(self, batch)


def optimizer_idx(self: Any, batch: Any, batch_idx: int, optimizer_idx: int) -> None: ...
def hiddens(self: Any, batch: Any, batch_idx: int, hiddens: Any) -> None: ...
def unused(self: Any, outputs: Any) -> None: ...


class Hooks:
    """Hooks with the arguments that they had."""

    def on_train_epoch_end(self, outputs: Any) -> None: ...
    def on_validation_epoch_end(self, outputs: Any) -> None: ...
    def on_train_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int) -> None: ...
    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int) -> None: ...
    def on_before_optimizer_step(self, optimizer: Any, optimizer_idx: int) -> None: ...
    def backward(self, loss: Any, optimizer: Any, optimizer_idx: int) -> None: ...
    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_idx: int) -> None: ...
    def lr_scheduler_step(self, scheduler: Any, optimizer_idx: int, metric: Any) -> None: ...
    def configure_gradient_clipping(self, optimizer: Any, optimizer_idx: int, **clip: Any) -> None: ...
    def transfer_batch_to_device(self, batch: Any, device: Any) -> Any: ...
    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_idx: int, optimizer_closure: Any, **more: Any
    ) -> None: ...


class Saving(Callback):
    def on_save_checkpoint(self, trainer: Any, pl_module: Any) -> None: ...  # type: ignore[override]


def optimizer_step(
    self: Any, epoch: int, batch_idx: int, optimizer: Any, optimizer_idx: int, optimizer_closure: Any = None
) -> None:
    optimizer.step()


def hparams(self: Any) -> None:
    super(Outdated, self).__init__()
    self.hparams = {"lr": 0.1}


Case = tuple[Callable[[], BaseException], str]
CASES: dict[str, Case] = {
    "training_epoch_end": (
        lambda: raised(training_epoch_end=unused),
        "in training_step, and use and clear it in on_train",
    ),
    "validation_epoch_end": (lambda: raised(validation_epoch_end=unused), "clear it in on_validation_epoch_end(self)"),
    "test_epoch_end": (lambda: raised(call="test", test_epoch_end=unused), "clear it in on_test_epoch_end(self)"),
    "optimizer_idx": (lambda: raised(training_step=optimizer_idx), "without `optimizer_idx`: set `self.automatic_opt"),
    "two optimizers": (lambda: raised(configure_optimizers=two_optimizers), "stepped by hand: set `self.automatic_opt"),
    "clipping": (lambda: raised(ByHand, flags={"gradient_clip_val": 1.0}), "self.clip_gradients(optimizer"),
    "accumulation": (lambda: raised(ByHand, flags={"accumulate_grad_batches": 2}), "(batch_idx + 1) % n == 0"),
    "schedule of accumulation": (
        lambda: raised(ByHand, callback=GradientAccumulationScheduler({0: 2})),
        "(batch_idx + 1) % n == 0",
    ),
    "manual_backward": (
        lambda: raised(training_step=step(lambda self, batch: self.manual_backward(self.layer(batch[0]).mean()))),
        "let Lightning do the rest",
    ),
    "hiddens": (lambda: raised(training_step=hiddens), "keep the hidden state on the module"),
    "a forgotten closure": (lambda: raised(optimizer_step=optimizer_step), "optimizer.step(closure=optimizer_closure)"),
    "toggle_optimizer": (
        lambda: raised(ByHand, training_step=step(lambda self, _: self.toggle_optimizer(self.optimizers(), 0))),
        "self.untoggle_optimizer(optimizer)",
    ),
    "manual_backward's optimizer": (
        lambda: raised(
            ByHand,
            training_step=step(
                lambda self, batch: self.manual_backward(self.layer(batch[0]).mean(), self.optimizers())
            ),
        ),
        "takes the loss alone: self.manual_backward(loss)",
    ),
    "log's arguments": (
        lambda: raised(training_step=step(lambda self, _: self.log("a", 1.0, sync_dist_op="mean"))),
        "has `reduce_fx` instead of `sync_dist_op`",
    ),
    "the trainer's attributes": (
        lambda: raised(training_step=step(lambda self, _: self.trainer.lr_schedulers)),
        "`trainer.lr_scheduler_configs`",
    ),
    "the module's attributes": (
        lambda: raised(training_step=step(lambda self, _: self.datamodule)),
        "`self.trainer.datamodule` instead of `self.datamodule`",
    ),
    "hparams": (lambda: raised(__init__=hparams), "self.save_hyperparameters()"),
    "TrainResult": (
        lambda: raised(training_step=step(lambda *_: pl.TrainResult(1))),
        "logs with self.log(name, value)",
    ),
    "a number": (lambda: raised(training_step=step(lambda *_: 1.0)), "no .item()"),
    "no key": (lambda: raised(training_step=step(lambda *_: {"log": {}})), "under 'loss'"),
    "detached": (
        lambda: raised(training_step=step(lambda self, batch: self.layer(batch[0]).mean().detach())),
        "it was detached",
    ),
    "no optimizer": (
        lambda: raised(configure_optimizers=LightningModule.configure_optimizers),
        "give `optimizer` in the config",
    ),
    "a callback's checkpoint": (
        lambda: raised(callback=Saving(), flags={"enable_checkpointing": True}),
        "on_save_checkpoint(self, trainer, pl_module, checkpoint)",
    ),
}
HOOKS = {
    "on_train_epoch_end": "gets no outputs",
    "on_validation_epoch_end": "gets no outputs",
    "on_train_batch_start": "as on_train_batch_start(…, batch, batch_idx)",
    "on_train_batch_end": "as on_train_batch_end(…, outputs, batch, batch_idx)",
    "on_before_optimizer_step": "as on_before_optimizer_step(…, optimizer)",
    "backward": "as backward(self, loss)",
    "optimizer_zero_grad": "as optimizer_zero_grad(self, epoch, batch_idx, optimizer)",
    "lr_scheduler_step": "as lr_scheduler_step(self, scheduler, metric)",
    "configure_gradient_clipping": "as configure_gradient_clipping(self, optimizer, gradient_clip_val=None",
    "transfer_batch_to_device": "as transfer_batch_to_device(self, batch, device, dataloader_idx)",
    "optimizer_step": "as optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure)",
}


@pytest.mark.parametrize("case", CASES)
def test_an_error_of_lightnings_is_told_with_what_to_write_instead(
    case: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    raises, words = CASES[case]
    told = remedy(raises())
    assert told is not None
    assert words in told


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_with_the_arguments_that_it_had_is_told_with_those_that_it_has(hook: str) -> None:
    told = remedy(raised(configure_optimizers=scheduled, **{hook: vars(Hooks)[hook]}))
    assert told is not None
    assert HOOKS[hook] in told


def test_an_error_of_the_users_own_has_none() -> None:
    assert remedy(ValueError("the user's own mistake")) is None
    assert remedy(TypeError("f() missing 1 required positional argument: 'x'")) is None
    assert remedy(AttributeError("'Outdated' object has no attribute 'layers'")) is None


def test_a_hook_that_nobody_calls_any_more_is_told_and_lightnings_own_are_not() -> None:
    class Old(Outdated):
        def on_epoch_end(self) -> None:
            raise AssertionError("it was called")

        def training_step_end(self, outputs: Tensor) -> Tensor:
            raise AssertionError("it was called")

    trainer = Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, barebones=True)
    trainer.fit(Old())
    assert ignored_hooks(trainer) == [
        {"class": "Old", "hook": "on_epoch_end", "instead": "on_train_epoch_end"},
        {"class": "Old", "hook": "training_step_end", "instead": "the end of training_step"},
    ]
