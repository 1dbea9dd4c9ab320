"""Train, validation and test rows, the same on every machine.

Shapes: N rows of a data set.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Split:
    """Row numbers (int64) of the three parts; each row is in exactly one."""

    train: Tensor
    val: Tensor
    test: Tensor


def split_rows(
    groups_N: Tensor, val_fraction: float, test_fraction: float, seed: int, names: Sequence[str] | None = None
) -> Split:
    """Split rows at random, each group (a class, say) in the same proportions.

    The draw has a generator of its own: it depends on `seed` alone, not on the run's `seed_everything`, so that runs
    with different seeds are scored on the same rows. `names` are the groups', for messages.

    Raises:
        ValueError: the fractions leave no training rows, or a group has fewer than three rows.
    """
    if val_fraction + test_fraction >= 1:
        raise ValueError(
            f"val_fraction {val_fraction} and test_fraction {test_fraction} leave nothing to train on; "
            "their sum must be below 1."
        )
    generator = torch.Generator().manual_seed(seed)
    parts: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
    for group in sorted(set(groups_N.tolist())):
        rows_N = (groups_N == group).nonzero().squeeze(1)
        count = len(rows_N)
        if count < 3:
            name = names[group] if names is not None else f"Class {group}"
            raise ValueError(f"{name} has {count} row(s); training, validation and test need one each.")
        rows_N = rows_N[torch.randperm(count, generator=generator)]
        num_test = max(1, round(count * test_fraction))
        num_val = max(1, round(count * val_fraction))
        num_test = min(num_test, count - 2)
        num_val = min(num_val, count - num_test - 1)
        for part, rows in zip(parts, rows_N.split([count - num_val - num_test, num_val, num_test]), strict=True):
            part.append(rows)
    train, val, test = (torch.cat(part).sort().values for part in parts)
    return Split(train, val, test)
