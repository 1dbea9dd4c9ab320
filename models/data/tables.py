"""Tables of numbers and categories, from a CSV file or from scikit-learn.

Shapes: B rows of a batch, N rows of the table, F features.
"""

import csv
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from models.bounds import Count, Fraction, Natural
from models.data.cache import cache_dir, prepare_once
from models.data.columns import Column, check_complete, classes, encode, listed, named, read_columns
from models.data.splits import split_rows

Task = Literal["classification", "regression"]
TableName = Literal["breast_cancer", "diabetes", "iris", "wine"]

TASK_OF_TABLE: dict[str, Task] = {
    "breast_cancer": "classification",
    "diabetes": "regression",
    "iris": "classification",
    "wine": "classification",
}

Loader = DataLoader[tuple[Tensor, ...]]


class Table(LightningDataModule):
    """Rows of a CSV file, or of one of scikit-learn's tables, as standardised features and a target.

    A column of numbers becomes one feature, with the mean and the standard deviation of the training rows taken out. A
    column of text becomes one feature of 0 or 1 for each value that the training rows have. The target is a class, or
    a number in its own unit. The split depends on `split_seed` alone; classes keep their proportions.

    After `setup` it has `num_features`, `feature_names`, and `num_classes` and `class_names`, or `target_mean` and
    `target_std` of the training rows.
    """

    feature_names: list[str]
    num_features: int
    class_names: list[str]
    num_classes: int
    target_mean: float
    target_std: float

    def __init__(
        self,
        name: TableName | None = None,
        csv_path: str | None = None,
        target: str = "target",
        features: list[str] | None = None,
        categories: list[str] | None = None,
        task: Task | None = None,
        missing: Literal["error", "impute"] = "error",
        data_dir: str | None = None,
        batch_size: Count = 32,
        num_workers: Natural = 0,
        val_fraction: Fraction = 0.15,
        test_fraction: Fraction = 0.2,
        split_seed: Natural = 0,
    ) -> None:
        """Remember what to load; nothing is read yet.

        Args:
            name: One of scikit-learn's tables; nothing is downloaded.
            csv_path: Or a CSV file with a header, in UTF-8, that fits into memory.
            target: Column to predict.
            features: Columns to predict from; default is all but the target.
            categories: Features to take as categories although they hold numbers, as codes do.
            task: Whether the target is a class or a number; may be left out for a named table and for a target of text.
            missing: What to do about an empty feature: stop, or take the median of the training rows (for a category,
                none of its values).
            data_dir: Folder for scikit-learn's tables; default is `lightyard-models` in the user's cache folder.
            batch_size: Rows of a batch.
            num_workers: Processes that load batches. The rows lie in memory, so 0 is fastest here.
            val_fraction: Share of the rows for validation.
            test_fraction: Share of the rows for the test.
            split_seed: Seed of the split.

        Raises:
            ValueError: not exactly one of `name` and `csv_path` is given, or `task` is not the named table's.
        """
        super().__init__()
        self.save_hyperparameters()
        if (name is None) == (csv_path is None):
            raise ValueError(
                "Give either `name` (one of scikit-learn's tables) or `csv_path` (a file), one of the two."
            )
        if name is not None and task not in (None, TASK_OF_TABLE[name]):
            raise ValueError(f"The table {name!r} is for {TASK_OF_TABLE[name]}, not {task}. Leave `task` out.")
        self.name: TableName | None = name
        self.path = Path(csv_path).expanduser() if csv_path is not None else cache_dir(data_dir) / f"{name}-v1.csv"
        self.target = target
        self.features = features
        self.categories = categories or []
        self.task = TASK_OF_TABLE[name] if name is not None else task
        self.missing = missing
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction
        self.split_seed = split_seed

    def prepare_data(self) -> None:
        """Write scikit-learn's table to the cache, once per machine; a CSV file is read where it lies."""
        if self.name is not None:
            prepare_once(self.path, partial(_write_table, self.name))

    def setup(self, stage: str) -> None:
        """Read the table, split it, and fit the standardisation on the training rows, in every process.

        Raises:
            FileNotFoundError: there is no such file on this machine.
            ValueError: the file is no table that can be learned from; the message names the column and what to do.
        """
        columns = read_columns(self.path)
        target = named(columns, self.target)
        check_complete(target)
        if self._task(target) == "classification":
            y_N, self.class_names = classes(target)
            self.num_classes = len(self.class_names)
            groups = [f"Class {name!r}" for name in self.class_names]
            split = split_rows(y_N, self.val_fraction, self.test_fraction, self.split_seed, groups)
        else:
            y_N = target.numbers().to(torch.float32)
            everything_N = torch.zeros(len(y_N), dtype=torch.int64)
            split = split_rows(everything_N, self.val_fraction, self.test_fraction, self.split_seed, ["The table"])
            std, mean = torch.std_mean(y_N[split.train], correction=0)
            self.target_mean, self.target_std = mean.item(), std.item() or 1.0

        names = self.features if self.features is not None else [name for name in columns if name != self.target]
        if not names or self.target in names:
            raise ValueError(f"`features` must name at least one column, and not the target {self.target!r}.")
        stray = [name for name in self.categories if name not in names]
        if stray:
            raise ValueError(f"`categories` names {listed(map(repr, stray))}, not among the features.")
        blocks = [
            encode(named(columns, name), split.train, self.missing, as_categories=name in self.categories)
            for name in names
        ]
        x_NF = torch.cat([block_NF for block_NF, _ in blocks], dim=1)
        self.feature_names = [name for _, block_names in blocks for name in block_names]
        self.num_features = len(self.feature_names)

        self.train_set = TensorDataset(x_NF[split.train], y_N[split.train])
        self.val_set = TensorDataset(x_NF[split.val], y_N[split.val])
        self.test_set = TensorDataset(x_NF[split.test], y_N[split.test])

    def train_dataloader(self) -> Loader:
        """Shuffled batches of the training rows."""
        return self._loader(self.train_set, shuffle=True)

    def val_dataloader(self) -> Loader:
        """Batches of the validation rows, in order."""
        return self._loader(self.val_set)

    def test_dataloader(self) -> Loader:
        """Batches of the test rows, in order."""
        return self._loader(self.test_set)

    def predict_dataloader(self) -> Loader:
        """The test rows again: they are the ones that no model has seen."""
        return self._loader(self.test_set)

    def _loader(self, dataset: TensorDataset, shuffle: bool = False) -> Loader:
        # Workers end with their epoch, see models.data.digits.
        return DataLoader(dataset, batch_size=self.batch_size, shuffle=shuffle, num_workers=self.num_workers)

    def _task(self, target: Column) -> Task:
        if self.task is None and target.is_numeric:
            raise ValueError(
                f"Column {target.name!r} holds numbers: say `task: regression`, or `task: classification` for classes."
            )
        if self.task == "regression" and not target.is_numeric:
            raise ValueError(
                f"Column {target.name!r} has no number in line {target.text_line}. "
                "Correct it, or say `task: classification`."
            )
        return self.task or "classification"


def _write_table(name: TableName, path: Path) -> None:
    # Imported here for the reason that models.data.digits gives.
    from sklearn import datasets

    # The diabetes table comes scaled by statistics of all its rows unless one asks for the measurements themselves.
    table = datasets.load_diabetes(scaled=False) if name == "diabetes" else getattr(datasets, f"load_{name}")()
    targets = table.target if TASK_OF_TABLE[name] == "regression" else table.target_names[table.target]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*table.feature_names, "target"])
        writer.writerows([*row, target] for row, target in zip(table.data.tolist(), targets.tolist(), strict=True))
