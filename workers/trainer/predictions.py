"""What a job predicts, as artifacts: written batch by batch while it runs, so that all of it is never in memory.

`predictions.pt` is what `trainer.predict` returns: a list of batches, one such list for each of several dataloaders.
`predictions.jsonl` has a line for each sample, for those who have no torch. Each rank of several has files of its own.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import orjson
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import BasePredictionWriter

from workers.rundir import Order, RunDir
from workers.trainer.spool import Spool
from workers.trainer.torch_file import NotStorable, TorchFile

JSON_VALUES_MAX = 1000
"""Most values of a sample that are written as JSON: a picture's would be several times as large as in torch's file."""
SAFE = "return tensors, arrays, numbers and texts, in lists, tuples and dicts"


class NotJson(Exception):
    """Predictions that are not written as JSON. The message says why."""


def kept_predictions(run: RunDir, order: Order, spool: Spool) -> list["PredictionFiles"]:
    """What keeps a run's predictions, unless its config says that nobody wants them returned."""
    wanted = order.subcommand == "predict" and order.config.get("return_predictions") is not False
    return [PredictionFiles(run, spool)] if wanted else []


class PredictionFiles(BasePredictionWriter):
    """Writes what `predict_step` returns, unless it returns nothing."""

    def __init__(self, run: RunDir, spool: Spool) -> None:
        super().__init__(write_interval="batch")
        self._spool = spool
        self._folder = run.path / "predictions"
        self._artifacts = run.artifacts
        self._suffix = ""
        self._file: TorchFile
        self._batches: list[list[Any]] = []
        self._indices: list[list[Sequence[int] | None]] = []
        self._lines: Any = None
        self._is_something = False

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin the files. They become artifacts once they are whole."""
        self._suffix = f"-rank{trainer.global_rank}" if trainer.world_size > 1 else ""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        loaders = trainer.predict_loop.num_dataloaders
        self._batches, self._indices = [[] for _ in range(loaders)], [[] for _ in range(loaders)]
        self._file = TorchFile(self._folder / f"predictions{self._suffix}.pt")
        self._lines = (self._folder / f"predictions{self._suffix}.jsonl").open("wb")

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Write one batch. Raises `TypeError` for what could not be read without running code."""
        # Lightning knows which samples these are, but for loaders that are no DataLoaders.
        indices = list(batch_indices) if batch_indices else None
        try:
            stored = self._file.add(prediction)
        except NotStorable as error:
            raise TypeError(
                f"predict_step returned {error}, which cannot be kept so that it loads safely: {SAFE}. Or write the"
                " predictions yourself, and set `return_predictions: false`."
            ) from error
        self._batches[dataloader_idx].append(stored)
        self._indices[dataloader_idx].append(indices)
        self._is_something |= prediction is not None
        if self._lines is None:
            return
        try:
            for sample in samples(prediction, indices):
                place = {"dataloader": dataloader_idx, "batch": batch_idx}
                self._lines.write(orjson.dumps(place | sample) + b"\n")
        except (NotJson, TypeError) as error:
            self._spool.event("predictions_not_json", reason=str(error)[:500])
            self._lines.close()
            self._lines = None

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """All is predicted: the files are whole."""
        self._file.close(self._one_or_all(self._batches))
        if self._lines is not None:
            self._lines.close()
        if not self._is_something:
            return
        names = [f"predictions{self._suffix}.pt"]
        names += [f"predictions{self._suffix}.jsonl"] if self._lines is not None else []
        if self._suffix:
            names.append(f"batch_indices{self._suffix}.pt")
            torch.save(self._one_or_all(self._indices), self._folder / names[-1])
        for name in names:
            (self._folder / name).replace(self._artifacts / name)

    def _one_or_all(self, loaders: list[list[Any]]) -> list[Any]:
        return loaders[0] if len(loaders) == 1 else loaders


def samples(prediction: Any, indices: Sequence[int] | None) -> Iterator[dict[str, Any]]:
    """A batch's predictions sample by sample, as JSON has them; the whole batch where it is not made of samples.

    Each with the sample's index in its dataset, where that is known. Raises `NotJson`.
    """
    tensors = list(_tensors(prediction))
    count = len(indices) if indices is not None else next((len(one) for one in tensors if one.dim() > 0), 1)
    if sum(one.numel() for one in tensors) > JSON_VALUES_MAX * max(1, count):
        raise NotJson(f"a sample has more than {JSON_VALUES_MAX} values")
    plain = _plain(prediction)
    if not tensors or not all(one.dim() > 0 and len(one) == count for one in tensors):
        yield ({"indices": indices} if indices is not None else {}) | {"prediction": plain}
        return
    for number in range(count):
        place = {} if indices is None else {"index": indices[number]}
        yield place | {"prediction": _of_sample(prediction, plain, number, count)}


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif hasattr(value, "__array__"):
        yield torch.as_tensor(value)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


def _of_sample(value: Any, plain: Any, number: int, count: int) -> Any:
    """What belongs to one sample: its part of each tensor, and of each list that has a text or a number for each."""
    if isinstance(value, dict):
        return {str(key): _of_sample(item, plain[str(key)], number, count) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        if len(value) == count and all(type(item) in (str, int, float, bool) for item in value):
            return plain[number]
        return [_of_sample(*pair, number, count) for pair in zip(value, plain, strict=True)]
    return plain[number] if isinstance(plain, list) else plain


def _plain(value: Any) -> Any:
    """A prediction as JSON has it; numbers that are not finite are written as texts, as everywhere."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, torch.Tensor) or hasattr(value, "__array__"):
        tensor = torch.as_tensor(value).detach()
        if tensor.is_complex():
            raise NotJson("JSON has no complex numbers")
        told = tensor.tolist()
        return told if not tensor.is_floating_point() or bool(tensor.isfinite().all()) else _plain(told)
    if isinstance(value, float) and not math.isfinite(value):
        return {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")
    if isinstance(value, bytes):
        raise NotJson("JSON has no bytes")
    return value
