"""What `self.logger.experiment` is in a job: TensorBoard's calls (`SummaryWriter`), kept as metrics and artifacts."""

import io
import math
import sys
import warnings
import wave
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

import orjson
import torch

from workers.trainer.images import png
from workers.trainer.logged_files import Full, LoggedFiles

BINS = 64
BINS_MAX = 1024
TEXT_BYTES_MAX = 2**20


class Book(Protocol):
    """Who keeps numbers, knows the step, and passes on that something is not kept."""

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Keep values of one step; None: of the present one."""

    def step(self, given: Any = None) -> int:
        """The step that is meant."""

    def ignored(self, call: str, reason: str) -> None:
        """Say, once for each call and reason, that something is not kept."""

    def only_checks(self) -> bool:
        """Whether Lightning tries the validation before training: what is logged then is nowhere kept."""


class Experiment:
    """Keeps scalars as metrics; images, figures, histograms, texts, sounds and graphs as artifacts.

    No call raises, and none draws a random number. What is not kept, an event of the job says, once for each call.
    """

    def __init__(self, book: Book, files: LoggedFiles) -> None:
        self._book = book
        self._files = files

    # Numbers

    def add_scalar(self, tag: str, scalar_value: Any, global_step: Any = None, *_: Any, **__: Any) -> None:
        """A metric."""
        self._try("add_scalar", lambda: self._book.log_metrics({str(tag): scalar_value}, self._book.step(global_step)))

    def add_scalars(
        self, main_tag: str, tag_scalar_dict: Mapping[str, Any], global_step: Any = None, *_: Any, **__: Any
    ) -> None:
        """A metric for each, `main_tag/name`."""
        step = self._book.step(global_step)
        self._try(
            "add_scalars",
            lambda: self._book.log_metrics({f"{main_tag}/{name}": v for name, v in tag_scalar_dict.items()}, step),
        )

    def add_hparams(
        self,
        hparam_dict: Mapping[str, Any],
        metric_dict: Mapping[str, Any],
        hparam_domain_discrete: Any = None,
        run_name: str | None = None,
        global_step: Any = None,
    ) -> None:
        """Hyperparameters as a JSON file, and their metrics as metrics."""
        step = self._book.step(global_step)

        def keep() -> None:
            figures = {name: float(value) for name, value in metric_dict.items()}
            told = {"hyperparameters": dict(hparam_dict), "metrics": figures}
            self._files.add("hyperparameters", run_name or "hparams", step, ".json", _json(told))
            self._book.log_metrics(metric_dict, step)

        self._try("add_hparams", keep)

    # Pictures

    def add_image(
        self,
        tag: str,
        img_tensor: Any,
        global_step: Any = None,
        walltime: float | None = None,
        dataformats: str = "CHW",
    ) -> None:
        """A PNG file."""
        self._keep("add_image", "images", tag, global_step, ".png", lambda: png(img_tensor, dataformats))

    def add_images(
        self,
        tag: str,
        img_tensor: Any,
        global_step: Any = None,
        walltime: float | None = None,
        dataformats: str = "NCHW",
    ) -> None:
        """A PNG file with all images of the batch, eight in a row."""
        self._keep("add_images", "images", tag, global_step, ".png", lambda: png(img_tensor, dataformats))

    def add_figure(
        self, tag: str, figure: Any, global_step: Any = None, close: bool = True, walltime: float | None = None
    ) -> None:
        """A matplotlib figure, or several, as PNG files."""
        figures = list(figure) if isinstance(figure, list | tuple) else [figure]
        for number, one in enumerate(figures):
            name = tag if len(figures) == 1 else f"{tag}/{number}"
            self._keep("add_figure", "images", name, global_step, ".png", partial(_drawn, one, close=close))

    # Others

    def add_histogram(
        self,
        tag: str,
        values: Any,
        global_step: Any = None,
        bins: Any = "tensorflow",
        walltime: float | None = None,
        max_bins: int | None = None,
    ) -> None:
        """A JSON file with the edges and counts of its bins; a number of them as `bins` is obeyed."""
        wanted = bins if isinstance(bins, int) and not isinstance(bins, bool) else max_bins or BINS
        self._keep("add_histogram", "histograms", tag, global_step, ".json", lambda: _json(histogram(values, wanted)))

    def add_text(self, tag: str, text_string: Any, global_step: Any = None, walltime: float | None = None) -> None:
        """A text file, of a megabyte at most."""
        self._keep(
            "add_text",
            "texts",
            tag,
            global_step,
            ".txt",
            lambda: str(text_string).encode("utf-8", "replace")[:TEXT_BYTES_MAX],
        )

    def add_audio(
        self,
        tag: str,
        snd_tensor: Any,
        global_step: Any = None,
        sample_rate: int = 44100,
        walltime: float | None = None,
    ) -> None:
        """A WAV file of 16 bits; values from -1 to 1."""
        self._keep("add_audio", "audio", tag, global_step, ".wav", lambda: _wav(snd_tensor, int(sample_rate)))

    def add_graph(self, model: Any, input_to_model: Any = None, *_: Any, **__: Any) -> None:
        """The traced graph as text; without an input, the modules."""
        self._keep("add_graph", "graphs", type(model).__name__, None, ".txt", lambda: _graph(model, input_to_model))

    # What a module may ask of a writer besides

    def log_metrics(self, metrics: Mapping[str, Any], step: Any = None) -> None:
        """As CSVLogger's experiment has it."""
        self._try("log_metrics", lambda: self._book.log_metrics(metrics, self._book.step(step)))

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """It stays open as long as the run."""

    def __enter__(self) -> "Experiment":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        """Any other call: of no effect, said once."""
        if name.startswith("__"):  # copying and pickling ask for such names
            raise AttributeError(name)
        return Ignored(self._book, name)

    def _keep(self, call: str, kind: str, tag: Any, step: Any, suffix: str, made: Callable[[], bytes]) -> None:
        self._try(call, lambda: self._files.add(kind, str(tag), self._book.step(step), suffix, made()))

    def _try(self, call: str, work: Callable[[], None]) -> None:
        if self._book.only_checks():
            return
        try:
            work()
        except Full as full:
            self._book.ignored(call, str(full))
        except Exception as error:  # given something odd, or a full disk: logging is no reason for a training to fail
            self._book.ignored(call, f"{type(error).__name__}: {error}"[:300])


class Ignored:
    """A call, or a client's part, that is not kept: what is done with it does nothing."""

    def __init__(self, book: Book, name: str) -> None:
        self._book = book
        self._name = name

    def __getattr__(self, name: str) -> "Ignored":
        if name.startswith("__"):
            raise AttributeError(name)
        return Ignored(self._book, f"{self._name}.{name}"[:100])

    def __call__(self, *_: Any, **__: Any) -> "Ignored":
        """Nothing comes of it, and that is said."""
        self._book.ignored(self._name, "it is not one of the calls that are kept")
        return self

    def __getitem__(self, key: object) -> "Ignored":
        return self

    def __setitem__(self, key: object, value: object) -> None:
        """Nothing comes of it, and that is said."""
        self._book.ignored(f"{self._name}[…]", "it is not one of the calls that are kept")


def histogram(values: Any, bins: int) -> dict[str, Any]:
    """The figures of a histogram of `bins` equal bins; what is not finite is counted apart. Raises `ValueError`."""
    numbers = torch.as_tensor(values).detach().cpu().flatten().double()
    finite = numbers[numbers.isfinite()]
    if not len(numbers):
        raise ValueError("there are no values")
    told: dict[str, Any] = {"count": len(numbers), "not_finite": len(numbers) - len(finite)}
    if not len(finite):
        return told | {"edges": [], "counts": []}
    low, high = float(finite.min()), float(finite.max())
    # A histogram of one value has a width all the same, as numpy's.
    between = (low, high) if low < high else (low - 0.5, high + 0.5)
    counts, edges = torch.histogram(finite, max(1, min(bins, BINS_MAX)), range=between)
    spread = float(finite.std(correction=0))
    return told | {
        "min": low, "max": high, "mean": float(finite.mean()), "std": spread if math.isfinite(spread) else None,
        "edges": edges.tolist(), "counts": [int(count) for count in counts.tolist()],
    }  # fmt: skip


def _json(value: Any) -> bytes:
    return orjson.dumps(value, default=str, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS)


def _drawn(figure: Any, *, close: bool) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    pyplot = sys.modules.get("matplotlib.pyplot")
    if close and pyplot is not None:
        pyplot.close(figure)
    return file.getvalue()


def _wav(sound: Any, sample_rate: int) -> bytes:
    samples = torch.as_tensor(sound).detach().cpu().float().nan_to_num().flatten().clamp(-1, 1)
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(sample_rate)
        writer.writeframes((samples * 32767).to(torch.int16).numpy().astype("<i2").tobytes())
    return file.getvalue()


def _graph(model: Any, input_to_model: Any) -> bytes:
    if input_to_model is None:
        return str(model).encode()
    with warnings.catch_warnings(), torch.random.fork_rng(), torch.no_grad():
        warnings.simplefilter("ignore")  # of tracing: that it sees one way through the code only
        traced: Any = torch.jit.trace(model, input_to_model, check_trace=False)  # type: ignore[no-untyped-call]
        return str(traced.inlined_graph).encode()
