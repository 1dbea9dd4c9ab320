import pytest
import torch

from models.data.splits import split_rows

GROUPS = torch.tensor([0] * 100 + [1] * 40 + [2] * 20)


def test_each_row_is_in_exactly_one_part() -> None:
    split = split_rows(GROUPS, 0.15, 0.2, seed=0)

    assert torch.cat([split.train, split.val, split.test]).sort().values.tolist() == list(range(160))


def test_each_part_has_the_classes_in_proportion() -> None:
    split = split_rows(GROUPS, 0.15, 0.2, seed=0)

    assert GROUPS[split.test].bincount().tolist() == [20, 8, 4]
    assert GROUPS[split.val].bincount().tolist() == [15, 6, 3]


def test_the_split_follows_its_own_seed_and_no_other() -> None:
    torch.manual_seed(1)
    first = split_rows(GROUPS, 0.15, 0.2, seed=0)
    torch.manual_seed(2)
    again, other = split_rows(GROUPS, 0.15, 0.2, seed=0), split_rows(GROUPS, 0.15, 0.2, seed=1)

    assert torch.equal(first.test, again.test)
    assert not torch.equal(first.test, other.test)


def test_a_split_draws_nothing_from_the_runs_random_numbers() -> None:
    before = torch.get_rng_state()
    split_rows(GROUPS, 0.15, 0.2, seed=0)

    assert torch.equal(torch.get_rng_state(), before)


def test_three_rows_of_a_class_are_enough_and_two_are_refused_by_name() -> None:
    split = split_rows(torch.zeros(3, dtype=torch.int64), 0.6, 0.3, seed=0)
    assert [len(split.train), len(split.val), len(split.test)] == [1, 1, 1]

    with pytest.raises(ValueError, match=r"Class 'rare' has 2 row\(s\)"):
        split_rows(torch.tensor([0, 0, 0, 1, 1]), 0.2, 0.2, seed=0, names=["Class 'common'", "Class 'rare'"])


def test_fractions_that_leave_nothing_to_train_on_are_refused() -> None:
    with pytest.raises(ValueError, match=r"val_fraction 0\.5 and test_fraction 0\.5 leave nothing to train on"):
        split_rows(GROUPS, 0.5, 0.5, seed=0)
