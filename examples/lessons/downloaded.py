"""Data that are downloaded: `prepare_data` fetches them once per machine, `setup` reads them on each process."""

import csv
import hashlib
import tempfile
import urllib.request
from pathlib import Path

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset


class Rows(LightningDataModule):
    """Rows of two numbers, x and y, of a CSV file at some address."""

    def __init__(self, url: str, folder: str | None = None, batch_size: int = 4, num_workers: int = 0) -> None:
        """Remember what to load; nothing is fetched yet.

        Args:
            url: Where the file is: `https://…`, `file:///…`, or the file itself in a `data:` address.
            folder: Where it is kept; default is `lightyard-lessons` in the machine's temporary folder.
            batch_size: Rows of a batch.
            num_workers: Processes that load them.
        """
        super().__init__()
        self.url = url
        kept = Path(folder) if folder is not None else Path(tempfile.gettempdir()) / "lightyard-lessons"
        self.path = kept / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}.csv"
        self.batch_size = batch_size
        self.num_workers = num_workers

    def prepare_data(self) -> None:
        """Fetch the file, unless it is there. Lightning calls this at each start of a job, so it looks first."""
        if self.path.exists():
            print(f"{self.path} is there")
            return
        print(f"fetching {self.url[:60]}")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(self.url, timeout=60) as answer:  # noqa: S310  # whoever submits says where it is
            part = self.path.with_suffix(".part")
            part.write_bytes(answer.read())
        part.rename(self.path)  # there whole or not at all, whatever happens on the way

    def setup(self, stage: str) -> None:
        """Read the file: every process needs the rows in its own memory."""
        with self.path.open(newline="") as file:
            numbers = torch.tensor([[float(value) for value in row] for row in csv.reader(file)])
        self.rows = TensorDataset(numbers[:, :1], numbers[:, 1:])

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Shuffled batches of all rows."""
        return DataLoader(self.rows, batch_size=self.batch_size, shuffle=True, num_workers=self.num_workers)
