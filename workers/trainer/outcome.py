"""From what was raised in a run to the reason that its job shows."""

import errno
import traceback

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.utilities.exceptions import SIGTERMException

from workers.rundir import Outcome

TRACEBACK_CHARACTERS = 20_000
OUT_OF_MEMORY = ("can't allocate memory", "CUDA out of memory", "out of memory", "std::bad_alloc")


def of_success(trainer: Trainer) -> Outcome:
    """A run that came to its end, early or not."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]  # Lightning sets it in a connector
        if isinstance(callback, EarlyStopping) and (callback.stopped_epoch > 0 or callback.wait_count > 0):
            if not trainer.should_stop and callback.stopped_epoch == 0:
                continue
            last = trainer.callback_metrics.get(callback.monitor)
            message = (
                f"stopped after epoch {callback.stopped_epoch}: {callback.monitor} is "
                f"{float('nan') if last is None else float(last):.6g}, its best was {float(callback.best_score):.6g}"
            )
            return Outcome("succeeded", "early_stopped", message)
    return Outcome("succeeded")


def of_error(error: BaseException) -> Outcome:
    """A run that raised."""
    if isinstance(error, SIGTERMException):
        return Outcome("lost", "worker_lost", "the trainer was told to stop from outside (SIGTERM)")
    text = "".join(traceback.format_exception(error))[-TRACEBACK_CHARACTERS:]
    if isinstance(error, SystemExit):
        message = f"the code called sys.exit({error.code!r}) before the run had finished"
    else:
        message = f"{type(error).__name__}: {error}".strip().removesuffix(":")
    return Outcome("failed", _code(error), message[:2000], text)


def _code(error: BaseException) -> str:
    if isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY):
        return "oom"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "out_of_disk"
    return "user_error"
