"""What user code keeps in plain attributes while it trains: a weight that grows with the epochs, losses to average.

Neither Lightning nor a state dict knows them. Numbers, texts, tensors, and lists, dicts and the like of those are saved
where they have changed since training began: of the module and its parts, the data module, the callbacks, and of the
objects that these hold. Other things, an open file for instance, are the user's to save.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningDataModule, LightningModule, Trainer

OBJECTS_MAX = 5000
ITEMS_MAX = 1000
DEPTH_MAX = 8
TENSOR_BYTES_MAX = 64 * 1024 * 1024

_LIBRARIES = ("torch", "pytorch_lightning", "lightning_fabric", "torchmetrics", "numpy", "builtins", "workers")
_SIMPLE = (type(None), bool, int, float, str, bytes)
_CONTAINERS = (list, tuple, set, deque, dict)


class NotPlain(Exception):
    """A value that is not saved."""


class Attributes:
    """The plain attributes of some objects and of what they hold."""

    def __init__(self, **roots: object) -> None:
        self._roots = roots
        self._base = set(vars(LightningModule())) | set(vars(LightningDataModule())) | {"trainer"}
        self._marks = {path: (thing, _marks(thing)) for path, thing in _objects(roots)}
        self.left_out: list[str] = []
        """Attributes that were too large when last saved."""

    def state(self) -> dict[str, dict[str, Any]]:
        """What has changed since this object was made. Tensors are not copied."""
        self.left_out = []
        told = {path: dict(self._changed(path, thing)) for path, thing in _objects(self._roots)}
        return {path: values for path, values in told.items() if values}

    def restore(self, state: Mapping[str, Mapping[str, Any]], moved: tuple[str, str]) -> list[str]:
        """Put back what another attempt had; of texts, a folder's name is replaced. Says which objects are missing."""
        objects = dict(_objects(self._roots))
        for path, values in state.items():
            attributes = getattr(objects.get(path), "__dict__", {})
            for name, value in values.items():
                before = attributes.get(name)
                after = _decoded(value, moved)
                if isinstance(before, (list, deque)) and isinstance(after, type(before)):
                    before.clear()
                    before.extend(after)  # others may hold it too
                elif isinstance(before, dict) and isinstance(after, dict):
                    before.clear()
                    before.update(after)
                else:
                    attributes[name] = after
        return [path for path in state if path not in objects]

    def _changed(self, path: str, thing: Any) -> Iterator[tuple[str, Any]]:
        ours = self._base if isinstance(thing, (torch.nn.Module, LightningDataModule)) else ()
        then, marks = self._marks.get(path, (thing, {}))
        marks = marks if then is thing else {}
        for name, value in vars(thing).items():
            if name in ours or name.startswith("_hparams") or (name in marks and marks[name] == _mark(value)):
                continue
            try:
                encoded = _encoded(value)
            except NotPlain:
                continue
            if _tensor_bytes(encoded) > TENSOR_BYTES_MAX:
                self.left_out.append(f"{path}.{name}")
            else:
                yield name, encoded


def _objects(roots: Mapping[str, object]) -> Iterator[tuple[str, Any]]:
    """Objects of the user's own classes, each under the path that leads to it."""
    waiting: list[tuple[str, Any, int]] = [(name, root, 0) for name, root in roots.items()]
    seen: set[int] = set()
    while waiting and len(seen) < OBJECTS_MAX:
        path, thing, depth = waiting.pop(0)
        if id(thing) in seen or isinstance(thing, (*_SIMPLE, torch.Tensor, np.ndarray, type, Trainer)):
            continue
        seen.add(id(thing))
        if isinstance(thing, _CONTAINERS):
            items = list(thing.items() if isinstance(thing, dict) else enumerate(thing))[:ITEMS_MAX]
            waiting += [(f"{path}.{name}", part, depth + 1) for name, part in items if depth < DEPTH_MAX]
            continue
        if type(thing).__module__.partition(".")[0] not in _LIBRARIES:
            if not hasattr(thing, "__dict__"):
                continue
            yield path, thing
            parts = vars(thing)
        else:
            parts = getattr(thing, "_modules", {})
        if depth < DEPTH_MAX:
            hidden = {"trainer", "_trainer", "_fabric"}
            waiting += [(f"{path}.{name}", part, depth + 1) for name, part in parts.items() if name not in hidden]


def _marks(thing: Any) -> dict[str, Any]:
    return {name: mark for name, value in vars(thing).items() if (mark := _mark(value)) is not None}


def _mark(value: Any) -> Any:
    """Something that is another once the value has changed; None where only looking at all of it could tell."""
    if isinstance(value, torch.Tensor):
        return "tensor", value.data_ptr(), value._version
    if type(value) in _SIMPLE:
        return type(value), repr(value)
    if isinstance(value, _CONTAINERS) and len(value) > ITEMS_MAX:
        return "container", id(value), len(value)
    return None


def _encoded(value: Any, depth: int = 0) -> Any:
    """The value in types that load without running code. Raises `NotPlain`, for what holds itself too."""
    if depth > DEPTH_MAX:
        raise NotPlain
    if type(value) in _SIMPLE:
        return value
    if isinstance(value, np.generic):
        return _encoded(value.item())
    if isinstance(value, torch.Tensor) and not isinstance(value, torch.nn.Parameter):
        return {"tensor": value.detach(), "on": str(value.device)}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        signed = np.dtype(f"i{value.dtype.itemsize}")
        return {"numpy": torch.from_numpy(value.view(signed).copy()), "is": str(value.dtype)}
    if isinstance(value, dict):
        return {"dict": [[_encoded(key, depth + 1), _encoded(item, depth + 1)] for key, item in value.items()]}
    if isinstance(value, _CONTAINERS) and not hasattr(value, "_fields"):
        kind = next(kind for kind in _CONTAINERS if isinstance(value, kind))
        return {kind.__name__: [_encoded(item, depth + 1) for item in value]}
    raise NotPlain


def _decoded(value: Any, moved: tuple[str, str]) -> Any:
    if isinstance(value, str):
        return value.replace(*moved)
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return value["tensor"].to(value["on"])
    if "numpy" in value:
        return value["numpy"].numpy().view(value["is"])
    ((kind, items),) = value.items()
    if kind == "dict":
        return {_decoded(key, moved): _decoded(item, moved) for key, item in items}
    decoded = [_decoded(item, moved) for item in items]
    kinds: dict[str, Any] = {"list": list, "tuple": tuple, "set": set, "deque": deque}
    return kinds[kind](decoded)


def _tensor_bytes(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        return sum(map(_tensor_bytes, value.values()))
    return sum(map(_tensor_bytes, value)) if isinstance(value, list) else 0
