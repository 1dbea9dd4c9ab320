"""Text for Lightning's demos of language models, in place of the WikiText2 that they would download."""

import pydoc_data.topics
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningDataModule
from pytorch_lightning.demos import SequenceSampler, WikiText2
from torch.utils.data import DataLoader

FOLDER = Path("data")
"""Below the working directory, which is each job's own: there the demos look before they download."""


class Words(LightningDataModule):
    """The English of Python's own help on `topics`, cut into blocks of 35 words; in their order with `in_order`.

    Both demos download in their `prepare_data`, whatever the data is. Lightning calls this one's first, and they
    download nothing where the file is there.
    """

    def __init__(self, batch_size: int = 20, in_order: bool = False, topics: int = 20) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.in_order = in_order
        self.topics = topics

    def prepare_data(self) -> None:
        FOLDER.mkdir(exist_ok=True)
        texts = sorted(pydoc_data.topics.topics.items())[: self.topics]
        draft = FOLDER / "wikitext-2.draft"
        draft.write_text("\n".join(text for _, text in texts), encoding="utf8")
        draft.replace(FOLDER / "wikitext-2.txt")

    def train_dataloader(self) -> DataLoader[Any]:
        words = WikiText2(FOLDER, download=False)
        if self.in_order:  # an LSTM carries its state from batch to batch
            return DataLoader(words, batch_sampler=SequenceSampler(words, self.batch_size))
        return DataLoader(words, batch_size=self.batch_size, shuffle=True)
