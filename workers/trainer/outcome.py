"""From what was raised in a run to the reason that its job shows."""

import errno
import re
import traceback
from collections.abc import Iterator

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.utilities.exceptions import SIGTERMException

from workers.rundir import Outcome

TRACEBACK_CHARACTERS = 20_000
DISK_FULL = ("PytorchStreamWriter failed writing", "iostream error", "unexpected pos")
"""What torch's writer of checkpoints says where there is no room: it gives no errno."""
LOADER_KILLED = re.compile(r"DataLoader worker \(pid.*\) is killed by signal: (Killed|Terminated)")
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
    """A run that raised. What torch and Lightning raise while they give up hides why: the causes below count first."""
    for cause in _chain(error):
        if isinstance(cause, SIGTERMException):
            return Outcome("lost", "worker_lost", "the trainer was told to stop from outside (SIGTERM)")
        if LOADER_KILLED.search(str(cause)):
            return Outcome("lost", "worker_lost", str(cause).splitlines()[0])
    text = "".join(traceback.format_exception(error))[-TRACEBACK_CHARACTERS:]
    told = next((cause for cause in _chain(error) if _code(cause) != "user_error"), error)
    if isinstance(told, SystemExit):
        message = f"the code called sys.exit({told.code!r}) before the run had finished"
    else:
        message = f"{type(told).__name__}: {told}".strip().removesuffix(":")
    return Outcome("failed", _code(told), message[:2000], text)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, and those in whose handling it was raised, as a traceback shows them."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        yield one
        seen.add(id(one))
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)


def _code(error: BaseException) -> str:
    if isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY):
        return "oom"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "out_of_disk"
    if isinstance(error, RuntimeError) and any(words in str(error) for words in DISK_FULL):
        return "out_of_disk"
    return "user_error"
