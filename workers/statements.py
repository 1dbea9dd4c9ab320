"""What a trainer says of its run as a whole, checked: user code can write into the run directory."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import orjson

TEXT_CHARACTERS = 255
NAMES_MAX = 100
OPTIMIZERS_MAX = 100
SCHEDULE_MAX = 1_000
HYPERPARAMETERS_BYTES = 32 * 1024
"""A trainer of ours sends half of that at most."""
DEPTH_MAX = 20
COUNT_MAX = 2**63 - 1

Check = Callable[[Any], Any]


class StatementError(ValueError):
    """What no trainer of ours says."""


def storable_text(text: str) -> str:
    """Text that every database takes: user code may put anything into a message, half a character or a NUL too."""
    return text.encode("utf-8", "replace").decode().replace("\0", "�")


def read_summary(said: Any) -> dict[str, Any]:
    """What a run turned out to be, as `app.schemas.jobs.SummaryOut` tells it. Raises `StatementError`."""
    return _read(said, _SUMMARY)


def read_reason_data(said: Any) -> dict[str, Any] | None:
    """What goes with the reason of a run's end, as `app.schemas.jobs.ReasonData`. Raises `StatementError`."""
    return None if said is None else _read(said, _REASON)


def _read(said: Any, checks: Mapping[str, Check]) -> dict[str, Any]:
    if not isinstance(said, dict):
        raise StatementError(f"{str(said)[:50]!r} is no object")
    if unknown := said.keys() - checks.keys():
        raise StatementError(f"nothing is said of {sorted(map(str, unknown))[:10]}")
    return {name: checks[name](value) for name, value in said.items()}


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > TEXT_CHARACTERS:
        raise StatementError(f"{str(value)[:50]!r} is no text of at most {TEXT_CHARACTERS} characters")
    return storable_text(value)


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= COUNT_MAX:
        raise StatementError(f"{str(value)[:50]!r} is no count")
    return value


def _yes_or_no(value: Any) -> bool:
    if not isinstance(value, bool):
        raise StatementError(f"{str(value)[:50]!r} is neither true nor false")
    return value


def _number(value: Any) -> float | str:
    """A number, in the form in which JSON holds those that are not finite."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise StatementError(f"{str(value)[:50]!r} is no number")
    try:
        number = float(value)
    except (ValueError, OverflowError) as error:
        raise StatementError(f"{str(value)[:50]!r} is no number") from error
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"


def _maybe(check: Check) -> Check:
    return lambda value: None if value is None else check(value)


def _some(check: Check, most: int) -> Check:
    def checked(value: Any) -> list[Any]:
        if not isinstance(value, list) or len(value) > most:
            raise StatementError(f"no list of at most {most}")
        return [check(item) for item in value]

    return checked


def _hyperparameters(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or len(orjson.dumps(value)) > HYPERPARAMETERS_BYTES:
        raise StatementError(f"hyperparameters are no object of at most {HYPERPARAMETERS_BYTES} bytes")
    if not all(isinstance(kept, dict) for kept in value.values()):
        raise StatementError("hyperparameters are not told by their owner")
    return {storable_text(owner): _json(kept, 0) for owner, kept in value.items()}


def _json(value: Any, depth: int) -> Any:
    if depth > DEPTH_MAX:
        raise StatementError(f"hyperparameters are nested more than {DEPTH_MAX} deep")
    if isinstance(value, dict):
        return {storable_text(name): _json(item, depth + 1) for name, item in value.items()}
    if isinstance(value, list):
        return [_json(item, depth + 1) for item in value]
    if isinstance(value, str):
        return storable_text(value)
    return value


_SUMMARY: dict[str, Check] = {
    "parameters": _count,
    "trainable_parameters": _count,
    "batch_size": _maybe(_count),
    "effective_batch_size": _maybe(_count),
    "accumulation": _some(
        lambda value: _read(
            value,
            {
                "from_epoch": _count,
                "accumulate_grad_batches": _count,
                "effective_batch_size": _maybe(_count),
            },
        ),
        SCHEDULE_MAX,
    ),
    "precision_asked": _maybe(_text),
    "precision": _text,
    "accelerator": _text,
    "devices": _count,
    "nodes": _count,
    "world_size": _count,
    "strategy": _text,
    "automatic_optimization": _yes_or_no,
    "optimizers": _some(_text, OPTIMIZERS_MAX),
    "lr_schedulers": _some(_text, OPTIMIZERS_MAX),
    "hyperparameters": _hyperparameters,
    "hyperparameters_left_out": _count,
    "sanity_steps": _count,
    "estimated_steps": _maybe(_count),
}
_REASON: dict[str, Check] = {
    "stage": _text,
    "epoch": _count,
    "global_step": _count,
    "batch": _count,
    "loss": _number,
    "monitor": _text,
    "mode": _text,
    "because": _text,
    "stopped_epoch": _count,
    "score": _number,
    "best_score": _number,
    "known_metrics": _some(_text, NAMES_MAX),
}
