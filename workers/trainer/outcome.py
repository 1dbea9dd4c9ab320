"""From how a run ended to the reason that its job shows."""

import errno
import math
import re
import traceback
from collections.abc import Iterator
from typing import Any

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.callbacks.early_stopping import EarlyStoppingReason
from pytorch_lightning.utilities.exceptions import SIGTERMException

from workers.rundir import Outcome
from workers.trainer.callbacks import Reporter
from workers.trainer.data_errors import as_data_error
from workers.trainer.divergence import Diverged
from workers.trainer.monitors import NAMES_MAX, missing_monitor, monitor_remedy
from workers.trainer.remedies import remedy
from workers.trainer.whereabouts import Whereabouts

TRACEBACK_CHARACTERS = 20_000
MESSAGE_CHARACTERS = 2000
DISK_FULL = ("PytorchStreamWriter failed writing", "iostream error", "unexpected pos")
"""What torch's writer of checkpoints says where there is no room: it gives no errno."""
LOADER_KILLED = re.compile(r"DataLoader worker \(pid.*\) is killed by signal: (Killed|Terminated)")
RANK_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Connection refused", "timeout")
OUT_OF_MEMORY = ("can't allocate memory", "CUDA out of memory", "out of memory", "std::bad_alloc")
ANOMALY = re.compile(r"Function '\w+' returned nan values in its \d+th output")
"""What torch raises for a gradient that is NaN, where the Trainer's `detect_anomaly` asks it to look."""


def of_success(trainer: Trainer) -> Outcome:
    """A run that came to its end, early or not."""
    stopping = [
        callback
        for callback in trainer.callbacks  # type: ignore[attr-defined]  # Lightning sets it in a connector
        if isinstance(callback, EarlyStopping) and callback.stopping_reason is not EarlyStoppingReason.NOT_STOPPED
    ]
    if not trainer.should_stop or not stopping:
        return Outcome("succeeded")
    return _early_stopped(trainer, max(stopping, key=lambda callback: callback.stopped_epoch))


def of_error(error: BaseException, trainer: Trainer | None = None) -> Outcome:
    """A run that raised. What torch and Lightning raise while they give up hides why: the causes below count first.

    `trainer` is None where it could not even be made.
    """
    for cause in _chain(error):
        if isinstance(cause, SIGTERMException):
            return Outcome("lost", "worker_lost", "the trainer was told to stop from outside (SIGTERM)")
        if _is_of_a_lost_rank(cause):
            return Outcome("lost", "worker_lost", f"another rank is gone: {str(cause).splitlines()[0]}"[:500])
        if LOADER_KILLED.search(str(cause)):
            return Outcome("lost", "worker_lost", str(cause).splitlines()[0])
    text = "".join(traceback.format_exception(error))[-TRACEBACK_CHARACTERS:]
    told = next((cause for cause in _chain(error) if _code(cause) != "user_error"), error)
    where = _where(trainer)
    data = where.data() if where is not None else None
    code = _code(told)
    if isinstance(told, Diverged):
        loss = {} if told.loss is None else {"loss": str(told.loss)}
        return Outcome("failed", code, f"{told}: stop_on_nan asks to stop there", None, told.where.data() | loss)
    if code == "diverged":
        message = f"a gradient is NaN at {where}, where detect_anomaly stops: {told} The log shows the forward call."
        return Outcome("failed", code, message[:MESSAGE_CHARACTERS], text, data)
    if isinstance(told, SystemExit):
        message = f"the code called sys.exit({told.code!r}) before the run had finished"
    else:
        message = f"{type(told).__name__}: {told}".strip().removesuffix(":")
    monitor = missing_monitor(told)
    if monitor is not None and trainer is not None:
        known = sorted(trainer._logger_connector._callback_metrics)[:NAMES_MAX]
        data = (data or {}) | {"monitor": monitor, "known_metrics": known}
        advice: str | None = monitor_remedy(monitor, known)
    else:
        advice = remedy(told)
    if where is not None and where.stage == "sanity_checking":
        message = f"in the sanity check of the validation, before training: {message}"
    return as_data_error(Outcome("failed", code, _with_advice(message, advice), text, data), _chain(error))


def _early_stopped(trainer: Trainer, callback: EarlyStopping) -> Outcome:
    epoch, monitor, best = callback.stopped_epoch, callback.monitor, float(callback.best_score)
    data: dict[str, Any] = {
        "monitor": monitor,
        "mode": callback.mode,
        "because": callback.stopping_reason.name.lower(),
        "stopped_epoch": epoch,
        "best_score": str(best),
    }
    last = trainer.callback_metrics.get(monitor)
    score = float("nan") if last is None else float(last)
    if last is not None:
        data["score"] = str(score)
    because = {
        EarlyStoppingReason.PATIENCE_EXHAUSTED: f"no better {callback.patience} times",
        EarlyStoppingReason.STOPPING_THRESHOLD: f"past stopping_threshold {callback.stopping_threshold}",
        EarlyStoppingReason.DIVERGENCE_THRESHOLD: f"past divergence_threshold {callback.divergence_threshold}",
        EarlyStoppingReason.NON_FINITE_METRIC: "not finite (check_finite)",
    }[callback.stopping_reason]
    was = f"its best was {best:.6g}" if math.isfinite(best) else "it never had a best"
    message = f"stopped after epoch {epoch}: {monitor} is {score:.6g}, {was}; {because}"
    return Outcome("succeeded", "early_stopped", message, None, data)


def _where(trainer: Trainer | None) -> Whereabouts | None:
    callbacks: list[Any] = [] if trainer is None else trainer.callbacks  # type: ignore[attr-defined]
    return next((callback.failed_at for callback in callbacks if isinstance(callback, Reporter)), None)


def _with_advice(message: str, advice: str | None) -> str:
    """A message that is too long is cut before what to do about it is."""
    if advice is None:
        return message[:MESSAGE_CHARACTERS]
    message = message[: MESSAGE_CHARACTERS - len(advice) - 2]
    return f"{message}{'' if message.endswith(('.', '!', '?')) else '.'} {advice}"[:MESSAGE_CHARACTERS]


def _is_of_a_lost_rank(error: BaseException) -> bool:
    """Whether a rank raised because another, which says why itself, does not answer it any more."""
    if not torch.distributed.is_initialized() or not isinstance(error, RuntimeError):
        return False
    # NCCL's errors have a type of their own; gloo's are plain, with the file that raised them.
    by_kind = isinstance(error, (torch.distributed.DistBackendError, torch.distributed.DistNetworkError))
    return by_kind or ("gloo" in str(error) and any(words in str(error) for words in RANK_LOST))


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
    if isinstance(error, Diverged) or (isinstance(error, RuntimeError) and ANOMALY.search(str(error))):
        return "diverged"
    return "user_error"
