"""Callbacks that are not called at every batch: Lightning spends microseconds on each hook of each callback.

It calls those that do nothing, too, and looks only whether they can be called. A callback of the service has, of the
hooks that come with every batch, those that it defines itself; all others are None, so that Lightning passes over them.
"""

from pytorch_lightning import Callback

EACH_BATCH = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
    "on_validation_batch_start",
    "on_validation_batch_end",
    "on_test_batch_start",
    "on_test_batch_end",
    "on_predict_batch_start",
    "on_predict_batch_end",
)
"""All hooks of Lightning's callbacks that are called for a batch."""


class Bystander(Callback):
    """A callback of the service."""


for hook in EACH_BATCH:
    setattr(Bystander, hook, None)
