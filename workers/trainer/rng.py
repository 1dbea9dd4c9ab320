"""Every random number generator that a training run draws from, saved and put back.

Beside the three that everybody shares there are generators that a run keeps itself: a DataLoader's, a dataset's, a
module's. They are found by looking through those objects.
"""

import random
from collections.abc import Iterator, Mapping
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningModule, Trainer

Own = Mapping[str, Any]
"""Generators by where they were found."""

OBJECTS_MAX = 5000
ITEMS_MAX = 100
DEPTH_MAX = 6

_GENERATORS = (torch.Generator, random.Random, np.random.Generator, np.random.RandomState)
_VALUES = (torch.Tensor, np.ndarray, str, bytes, int, float, type(None), torch.dtype, torch.device)
_CODE = (type, ModuleType, FunctionType, MethodType, BuiltinFunctionType, Trainer)


def snapshot(own: Own) -> dict[str, Any]:
    """The state of Python's, NumPy's and torch's generators, every CUDA device's, and the run's own.

    In types that load without running code.
    """
    return {
        "python": _python(random.getstate()),
        "numpy": _plain(np.random.get_state(legacy=False)),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if _uses_cuda() else [],
        "own": {name: _state(generator) for name, generator in own.items()},
    }


def put_back(state: Mapping[str, Any], own: Own) -> None:
    """Make every generator go on from a snapshot; those of the run's own that are not in it stay as they are."""
    random.setstate(_as_python(state["python"]))
    np.random.set_state(_as_numpy(state["numpy"]))
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
    put_back_own(state["own"], own)


def put_back_own(states: Mapping[str, Any], own: Own) -> None:
    """The same for the run's own alone."""
    for name, saved in states.items():
        generator = own.get(name)
        if isinstance(generator, torch.Generator):
            generator.set_state(saved)
        elif isinstance(generator, random.Random):
            generator.setstate(_as_python(saved))
        elif isinstance(generator, np.random.Generator):
            generator.bit_generator.state = _as_numpy(saved)
        elif isinstance(generator, np.random.RandomState):
            generator.set_state(_as_numpy(saved))


def own_generators(**roots: object) -> dict[str, Any]:
    """The generators that these objects hold, each under the path that leads to it; the same path in every attempt."""
    found: dict[str, Any] = {}
    seen = {id(random), id(getattr(random, "_inst", None)), id(np.random.mtrand._rand), id(torch.default_generator)}
    waiting = [(name, root, 0) for name, root in roots.items()]
    while waiting and len(seen) < OBJECTS_MAX:
        path, thing, depth = waiting.pop(0)
        if id(thing) in seen or isinstance(thing, (*_VALUES, *_CODE)):
            continue
        seen.add(id(thing))
        if isinstance(thing, _GENERATORS):
            found[path] = thing
        elif depth < DEPTH_MAX:
            waiting += [(f"{path}.{name}", part, depth + 1) for name, part in _parts(thing)]
    return found


def seed_own(seed: int, own: Own) -> None:
    """Make every generator of the run's own begin anew."""
    for generator in own.values():
        if isinstance(generator, torch.Generator):
            generator.manual_seed(seed)
        elif isinstance(generator, np.random.Generator):
            generator.bit_generator.state = type(generator.bit_generator)(seed).state
        else:  # Python's, and NumPy's older one, which takes 32 bits
            generator.seed(seed % 2**32)


def _parts(thing: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(thing, Mapping):
        if len(thing) <= ITEMS_MAX:
            yield from ((str(key), part) for key, part in thing.items())
    elif isinstance(thing, (list, tuple)):
        if len(thing) <= ITEMS_MAX:
            yield from ((str(index), part) for index, part in enumerate(thing))
    else:
        hidden = {"_trainer", "trainer", "_fabric"} if isinstance(thing, LightningModule) else {"trainer"}
        for name, part in getattr(thing, "__dict__", {}).items():
            if name not in hidden:
                yield name, part


def _state(generator: Any) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, random.Random):
        return _python(generator.getstate())
    if isinstance(generator, np.random.Generator):
        return _plain(generator.bit_generator.state)
    return _plain(generator.get_state(legacy=False))


def _python(state: tuple[Any, ...]) -> list[Any]:
    version, words, gauss = state
    return [version, list(words), gauss]


def _as_python(state: list[Any]) -> tuple[Any, ...]:
    version, words, gauss = state
    return version, tuple(words), gauss


def _plain(value: Any) -> Any:
    """A bit generator's state with its arrays as tensors of the signed type of the same width."""
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, np.ndarray):
        signed = np.dtype(f"i{value.dtype.itemsize}")
        return {"dtype": str(value.dtype), "array": torch.from_numpy(value.view(signed).copy())}
    return value.item() if isinstance(value, np.generic) else value


def _as_numpy(value: Any) -> Any:
    if isinstance(value, Mapping):
        if value.keys() == {"dtype", "array"}:
            return value["array"].numpy().view(value["dtype"])
        return {key: _as_numpy(part) for key, part in value.items()}
    return value


def _uses_cuda() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]
