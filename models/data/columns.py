"""The columns of a CSV file, and what a network can read of them.

Shapes: N rows of the table, F features.
"""

import csv
import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

MISSING = frozenset({"", "na", "n/a", "nan", "null"})
"""What stands for a missing value, in any case."""

MAX_CATEGORIES = 100
"""Most values of a column of categories; one with more is rather a name or a date."""

MAX_SHOWN = 5
"""Most names or lines that a message lists."""


@dataclass(frozen=True)
class Column:
    """A column as it stands in the file; `lines` are the line numbers of its N values, and None is a missing one."""

    name: str
    values: list[str | None]
    lines: list[int]

    @cached_property
    def missing_lines(self) -> list[int]:
        """Lines in which the value is missing."""
        return [line for value, line in zip(self.values, self.lines, strict=True) if value is None]

    @cached_property
    def text_line(self) -> int | None:
        """The first line whose value is no finite number; None for a column of numbers."""
        for value, line in zip(self.values, self.lines, strict=True):
            if value is not None and not _is_number(value):
                return line
        return None

    @property
    def is_numeric(self) -> bool:
        """Whether every value that is there is a finite number."""
        return self.text_line is None

    @cached_property
    def is_mixed(self) -> bool:
        """Whether some values are numbers and some are not."""
        return not self.is_numeric and any(value is not None and _is_number(value) for value in self.values)

    def numbers(self) -> Tensor:
        """The values (N,) as float64, NaN where one is missing; the column must be numeric."""
        return torch.tensor([math.nan if value is None else float(value) for value in self.values], dtype=torch.float64)

    def categories(self) -> list[str]:
        """The distinct values, in order: of their size for numbers, else of the alphabet.

        Raises:
            ValueError: there are more than `MAX_CATEGORIES`.
        """
        values = {value for value in self.values if value is not None}
        if len(values) > MAX_CATEGORIES:
            raise ValueError(
                f"Column {self.name!r} has {len(values)} different values; at most {MAX_CATEGORIES} can be categories. "
                "Leave it out of `features`; for a target of numbers, set `task: regression`."
            )
        return sorted(values, key=float) if self.is_numeric else sorted(values)


def read_columns(path: Path) -> dict[str, Column]:
    """Read a CSV file with a header, in UTF-8.

    Raises:
        FileNotFoundError: there is no such file on this machine.
        ValueError: it is no such file; the message says what is wrong in which line.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            _check_header(header, path)
            rows: list[list[str | None]] = []
            lines: list[int] = []
            for row in reader:
                if not row:
                    continue  # an empty line, as editors leave at the end
                if len(row) != len(header):
                    raise ValueError(
                        f"{path}, line {reader.line_num}: {len(row)} values under {len(header)} column names. "
                        "Put values that contain a comma into double quotes."
                    )
                rows.append([None if value.strip().casefold() in MISSING else value.strip() for value in row])
                lines.append(reader.line_num)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"There is no file {path} on the machine that trains. Give an absolute path that exists there."
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not in UTF-8 (byte {error.start}). Save it as UTF-8.") from error
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}.") from error
    if not rows:
        raise ValueError(f"{path} has a header but no rows.")
    return {
        name: Column(name, list(values), lines) for name, values in zip(header, zip(*rows, strict=True), strict=True)
    }


def named(columns: Mapping[str, Column], name: str) -> Column:
    """The column of that name.

    Raises:
        ValueError: there is none; the message says what there is.
    """
    if name not in columns:
        close = difflib.get_close_matches(name, columns, n=1)
        hint = f"Did you mean {close[0]!r}?" if close else f"There are {listed(map(repr, columns))}."
        raise ValueError(f"There is no column {name!r}. {hint}")
    return columns[name]


def encode(
    column: Column, train_N: Tensor, missing: Literal["error", "impute"], as_categories: bool
) -> tuple[Tensor, list[str]]:
    """Features (N, F), float32, and their names, of one column; what is fitted is fitted on the rows `train_N` alone.

    Raises:
        ValueError: values are missing and not to be imputed, or there are none, or too many different ones, or some are
            numbers and some are not.
    """
    if len(column.missing_lines) == len(column.values):
        raise ValueError(f"Column {column.name!r} is empty. Leave it out of `features`.")
    if column.missing_lines and missing == "error":
        raise ValueError(
            f"Column {column.name!r} has no value in {_lines(column.missing_lines)}. "
            "Fill it, leave the column out of `features`, or set `missing: impute`."
        )
    if column.is_mixed and not as_categories:
        raise ValueError(
            f"Column {column.name!r} holds numbers, but none that is finite in line {column.text_line}. "
            "Correct it, or name the column in `categories`."
        )
    return _standardised(column, train_N) if column.is_numeric and not as_categories else _one_hot(column, train_N)


def classes(column: Column) -> tuple[Tensor, list[str]]:
    """Class numbers (N,), int64, and the classes' names; no value may be missing.

    Raises:
        ValueError: there is one class alone, or there are too many.
    """
    names = column.categories()
    if len(names) < 2:
        raise ValueError(f"Column {column.name!r} has the one value {names[0]!r}: there is nothing to tell apart.")
    number = {name: index for index, name in enumerate(names)}
    return torch.tensor([number[value] for value in column.values if value is not None]), names


def check_complete(target: Column) -> None:
    """Refuse a target with missing values.

    Raises:
        ValueError: there are some; the message says where.
    """
    if target.missing_lines:
        raise ValueError(
            f"Column {target.name!r} is the target and has no value in {_lines(target.missing_lines)}. "
            "Fill these rows, or remove them."
        )


def listed(names: Iterable[str]) -> str:
    """The first few of many names."""
    shown = list(names)
    more = f" and {len(shown) - MAX_SHOWN} more" if len(shown) > MAX_SHOWN else ""
    return ", ".join(shown[:MAX_SHOWN]) + more


def _standardised(column: Column, train_N: Tensor) -> tuple[Tensor, list[str]]:
    x_N = column.numbers()
    known = x_N[train_N][~x_N[train_N].isnan()]
    if not len(known):
        raise ValueError(f"Column {column.name!r} is empty in all training rows. Leave it out of `features`.")
    x_N = torch.where(x_N.isnan(), known.median(), x_N)
    std, mean = torch.std_mean(x_N[train_N], correction=0)
    # A column that never changes says nothing; divided by 1 it becomes a column of zeros.
    scale = std if std > 0 else torch.ones_like(std)
    return ((x_N - mean) / scale).to(torch.float32).unsqueeze(1), [column.name]


def _one_hot(column: Column, train_N: Tensor) -> tuple[Tensor, list[str]]:
    in_training = {column.values[row] for row in train_N.tolist()}
    # A value that training has never seen, like a missing one, is none of the categories.
    names = [name for name in column.categories() if name in in_training]
    number = {name: index for index, name in enumerate(names)}
    x_NF = torch.zeros(len(column.values), len(names))
    for row, value in enumerate(column.values):
        if value in number:
            x_NF[row, number[value]] = 1.0
    return x_NF, [f"{column.name}={name}" for name in names]


def _check_header(header: Sequence[str], path: Path) -> None:
    if not any(header):
        raise ValueError(f"{path} is empty: its first line must name the columns.")
    if "" in header:
        raise ValueError(f"{path}: column {header.index('') + 1} has no name in the first line.")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise ValueError(f"{path}: the first line names {listed(map(repr, twice))} more than once.")


def _is_number(value: str) -> bool:
    try:
        return math.isfinite(float(value))
    except ValueError:
        return False


def _lines(lines: Sequence[int]) -> str:
    return f"line {lines[0]}" if len(lines) == 1 else f"lines {listed(map(str, lines))}"
