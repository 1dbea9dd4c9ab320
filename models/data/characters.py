"""Text as a row of characters: Python's own language reference, or a text file.

Shapes: B windows of a batch, T characters of a window, S = 2T + 1 characters of a stretch, N windows of a split.
"""

import platform
import re
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from models.bounds import Count, Fraction, Natural
from models.data.cache import cache_dir, prepare_once
from models.data.splits import split_rows

VOCABULARY = "\n" + "".join(map(chr, range(ord(" "), ord("~") + 1)))
"""A line's end and the printable characters of ASCII."""

TEXT_BYTES_MAX = 16 * 1024 * 1024
"""Largest text file; a longer text is better cut into words or parts of words than into characters."""

PARAGRAPH_CHARACTERS_MIN = 80
LETTERS_MIN = 0.85
"""Smallest share of letters and spaces in what is taken for prose; code, tables and grammar have fewer."""

_PLAIN = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-", "…": "..."})

Batch = tuple[Tensor, Tensor]
Loader = DataLoader[Any]


class Characters(LightningDataModule):
    """Windows of a text, and the same windows one character later: what comes next is what a model learns.

    Without `text_path` the text is the prose of Python's language reference, some 200,000 characters, which every
    Python carries for its `help()`. Whole paragraphs go to training, validation or test; each stands in the text once,
    so none is in two of them. One epoch goes through the training text once, from another place in each stretch.
    """

    def __init__(
        self,
        text_path: str | None = None,
        vocabulary: str = VOCABULARY,
        block_size: Count = 64,
        batch_size: Count = 32,
        num_workers: Natural = 0,
        val_fraction: Fraction = 0.1,
        test_fraction: Fraction = 0.1,
        split_seed: Natural = 0,
        prompts: list[str] = ["\n"],  # noqa: B006 - jsonargparse and the schema read it; nothing changes it
        data_dir: str | None = None,
    ) -> None:
        """Remember what to load; nothing is read yet.

        Args:
            text_path: A text file, in UTF-8, at most 16 MiB, its paragraphs with empty lines between them.
            vocabulary: Every character that the text may have; the model's must be the same.
            block_size: Characters of a window.
            batch_size: Windows of a batch.
            num_workers: Processes that load batches. The text lies in memory, so 0 is fastest here.
            val_fraction: Share of the paragraphs for validation.
            test_fraction: Share of the paragraphs for the test.
            split_seed: Seed of the split.
            prompts: Beginnings that `predict` has the model go on from.
            data_dir: Folder for the prepared text; default is `lightyard-models` in the user's cache folder.

        Raises:
            ValueError: the vocabulary names a character twice, or a prompt is empty.
        """
        super().__init__()
        self.save_hyperparameters()
        if len(set(vocabulary)) < max(2, len(vocabulary)):
            raise ValueError("`vocabulary` must name at least two characters, and each of them once.")
        if not all(prompts):
            raise ValueError("Each of the `prompts` must have a character; a line's end begins a new paragraph.")
        # The text is another with each release of Python.
        prepared = cache_dir(data_dir) / f"python-{platform.python_version()}-prose-v1.txt"
        self.text_path = Path(text_path).expanduser() if text_path is not None else None
        self.path = self.text_path or prepared
        self.vocabulary = vocabulary
        self.block_size = block_size
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction
        self.split_seed = split_seed
        self.prompts = prompts

    def prepare_data(self) -> None:
        """Write Python's text to the cache, once per machine; a text file is read where it lies."""
        if self.text_path is None:
            prepare_once(self.path, _write_prose)

    def setup(self, stage: str) -> None:
        """Read the text and split it, in every process.

        Raises:
            FileNotFoundError: there is no such file on this machine.
            ValueError: the file is too large, too short or has a character that is not in the vocabulary.
        """
        if (size := self.path.stat().st_size) > TEXT_BYTES_MAX:
            raise ValueError(f"{self.path} has {size} bytes; at most {TEXT_BYTES_MAX} can be read.")
        paragraphs = list(dict.fromkeys(re.split(r"\n\s*\n", self.path.read_text("utf-8").strip())))
        if len(paragraphs) < 3:
            raise ValueError(
                f"{self.path} has {len(paragraphs)} paragraph(s); training, validation and test need one each. "
                "Separate them by empty lines."
            )
        self.encode("".join(set("".join(paragraphs))))  # one message has all that the vocabulary lacks
        everything_N = torch.zeros(len(paragraphs), dtype=torch.int64)
        split = split_rows(everything_N, self.val_fraction, self.test_fraction, self.split_seed)
        parts = [("".join(paragraphs[row] + "\n\n" for row in rows)) for rows in (split.train, split.val, split.test)]
        train, val, test = (self.encode(part) for part in parts)
        self.train_set = self._windows(train, 2 * self.block_size + 1)
        self.val_set = self._windows(val, self.block_size + 1)
        self.test_set = self._windows(test, self.block_size + 1)

    def encode(self, text: str) -> Tensor:
        """Numbers (int64) of characters: their places in the vocabulary.

        Raises:
            ValueError: the vocabulary lacks some of them; the message has them, to be added.
        """
        place = {character: index for index, character in enumerate(self.vocabulary)}
        if lacking := sorted(set(text) - place.keys()):
            raise ValueError(
                f"The vocabulary lacks {len(lacking)} character(s) of {self.path}: {''.join(lacking)[:200]!r}. "
                "Take them out of the text, or add them to the `vocabulary` of the data and of the model."
            )
        return torch.tensor([place[character] for character in text], dtype=torch.int64)

    def train_dataloader(self) -> Loader:
        """Shuffled stretches of the training text; `on_after_batch_transfer` cuts a window out of each."""
        return self._loader(self.train_set, shuffle=True)

    def val_dataloader(self) -> Loader:
        """Windows of the validation text, in order."""
        return self._loader(self.val_set)

    def test_dataloader(self) -> Loader:
        """Windows of the test text, in order."""
        return self._loader(self.test_set)

    def predict_dataloader(self) -> Loader:
        """The prompts, (1, T) each: they may differ in length."""
        return DataLoader([self.encode(prompt) for prompt in self.prompts], batch_size=1)  # type: ignore[arg-type] # a list will do

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Windows x_BT and what comes after each of their characters, y_BT.

        Of a training batch's stretches this cuts the windows, in the training process and on its random numbers, so
        the number of loader workers changes nothing.
        """
        if self.trainer is not None and self.trainer.predicting:
            return batch
        (ids_BS,) = batch
        if self.trainer is not None and self.trainer.training:
            ids_BS = cut(ids_BS, self.block_size + 1)
        return ids_BS[:, :-1].contiguous(), ids_BS[:, 1:].contiguous()

    def _windows(self, ids: Tensor, length: int) -> TensorDataset:
        if len(ids) < length:
            raise ValueError(
                f"{self.path} is too short: a split has {len(ids)} characters, and a block_size of {self.block_size} "
                f"needs {length}. Choose a smaller block_size."
            )
        return TensorDataset(ids.unfold(0, length, self.block_size))

    def _loader(self, dataset: TensorDataset, shuffle: bool = False) -> Loader:
        # Workers end with their epoch, see models.data.digits.
        return DataLoader(dataset, batch_size=self.batch_size, shuffle=shuffle, num_workers=self.num_workers)


def cut(ids_BS: Tensor, length: int) -> Tensor:
    """Of each row so many characters, from a random place on."""
    B, S = ids_BS.shape
    first_B1 = torch.randint(0, S - length + 1, (B, 1), device=ids_BS.device)
    return ids_BS.gather(1, first_B1 + torch.arange(length, device=ids_BS.device))


def _write_prose(path: Path) -> None:
    # Imported here: half a megabyte of text, for those who train on it.
    from pydoc_data.topics import topics

    paragraphs = (
        " ".join(paragraph.translate(_PLAIN).split())
        for name in sorted(topics)
        for paragraph in re.split(r"\n\s*\n", topics[name])
    )
    # Topics repeat one another: "specialnames" has those on attributes, numbers and context managers again.
    path.write_text("\n\n".join(dict.fromkeys(filter(_is_prose, paragraphs))) + "\n", "utf-8")


def _is_prose(paragraph: str) -> bool:
    letters = sum(character.isalpha() or character == " " for character in paragraph)
    return (
        len(paragraph) >= PARAGRAPH_CHARACTERS_MIN
        and paragraph.isascii()
        and paragraph[0].isupper()
        and letters >= LETTERS_MIN * len(paragraph)
    )
