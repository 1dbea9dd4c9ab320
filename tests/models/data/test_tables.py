from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes

from models.data import Table

ROWS = [(20 + i, "red" if i % 3 else "blue", i * i, "yes" if i % 2 else "no") for i in range(60)]
CSV = "age,colour,size,bought\n" + "".join(f"{age},{colour},{size},{bought}\n" for age, colour, size, bought in ROWS)


def ready(path: Path, text: str | bytes = CSV, **arguments: Any) -> Table:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    data = Table(csv_path=str(path), **{"target": "bought", **arguments})
    data.prepare_data()
    data.setup("fit")
    return data


def test_numbers_become_a_feature_each_and_categories_one_per_value(tmp_path: Path) -> None:
    data = ready(tmp_path / "table.csv")

    assert data.feature_names == ["age", "colour=blue", "colour=red", "size"]
    assert (data.num_features, data.num_classes, data.class_names) == (4, 2, ["no", "yes"])
    x, y = data.train_set.tensors
    assert torch.equal(x[:, 1] + x[:, 2], torch.ones(len(y)))
    assert (x.dtype, y.dtype) == (torch.float32, torch.int64)


def test_standardisation_is_fitted_on_the_training_rows_alone(tmp_path: Path) -> None:
    data = ready(tmp_path / "table.csv", features=["age", "size"])
    x, _ = data.train_set.tensors
    everything = torch.cat([part.tensors[0] for part in (data.train_set, data.val_set, data.test_set)])

    assert x.mean(dim=0).abs().max() < 1e-6
    assert (x.std(dim=0, correction=0) - 1).abs().max() < 1e-6
    assert everything.mean(dim=0).abs().max() > 1e-3


def test_a_table_of_scikit_learn_is_read_with_every_digit() -> None:
    data = Table(name="breast_cancer")
    data.prepare_data()
    data.setup("fit")
    y = torch.cat([part.tensors[1] for part in (data.train_set, data.val_set, data.test_set)])

    assert (data.num_features, data.class_names) == (30, ["benign", "malignant"])
    assert y.bincount().tolist() == [357, 212]
    with data.path.open() as file:
        written = [float(value) for value in file.readlines()[1].split(",")[:-1]]
    assert written == load_breast_cancer().data[0].tolist()


def test_a_regression_target_stays_in_its_own_unit() -> None:
    data = Table(name="diabetes")
    data.prepare_data()
    data.setup("fit")
    y = torch.cat([part.tensors[1] for part in (data.train_set, data.val_set, data.test_set)])

    assert y.sum().item() == load_diabetes().target.sum()
    assert data.target_mean == pytest.approx(data.train_set.tensors[1].mean().item())
    assert not hasattr(data, "num_classes")


def test_a_missing_number_is_imputed_by_the_median_of_the_training_rows(tmp_path: Path) -> None:
    data = ready(tmp_path / "table.csv", CSV.replace("\n20,", "\nNA,", 1), missing="impute")
    x = torch.cat([part.tensors[0] for part in (data.train_set, data.val_set, data.test_set)])

    assert not x.isnan().any()


def test_a_category_that_training_never_saw_is_none_of_them(tmp_path: Path) -> None:
    text = CSV + "30,green,1,yes\n"  # one row among 61: some split seed puts it into the test part
    seen = {len(ready(tmp_path / "table.csv", text, split_seed=seed).feature_names) for seed in range(10)}

    assert seen == {4, 5}


def test_codes_can_be_categories_whether_they_are_numbers_or_not(tmp_path: Path) -> None:
    rows = "".join(f"{i % 3},{'3+' if i % 4 else 1},{'yes' if i % 2 else 'no'}\n" for i in range(60))
    data = ready(tmp_path / "t.csv", "x,y,bought\n" + rows, categories=["x", "y"])

    assert data.feature_names == ["x=0", "x=1", "x=2", "y=1", "y=3+"]


def test_numbers_can_be_classes_and_keep_their_order(tmp_path: Path) -> None:
    rows = "".join(f"{i},{(i % 3) * 5}\n" for i in range(60))

    assert ready(tmp_path / "t.csv", "x,bought\n" + rows, task="classification").class_names == ["0", "5", "10"]


def test_a_byte_order_mark_and_blank_lines_do_no_harm(tmp_path: Path) -> None:
    data = ready(tmp_path / "table.csv", b"\xef\xbb\xbf" + CSV.replace("\n40,", "\n\n40,").encode() + b"\n\n")

    assert data.feature_names[0] == "age"


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        (CSV, {"target": "bougth"}, "There is no column 'bougth'. Did you mean 'bought'"),
        (CSV, {"features": ["weight"]}, "There is no column 'weight'. There are 'age', 'colour', 'size', 'bought'"),
        (CSV, {"features": ["age", "bought"]}, "not the target 'bought'"),
        (CSV, {"features": []}, "at least one column"),
        (CSV, {"target": "age"}, "Column 'age' holds numbers: say `task: regression`"),
        (CSV, {"task": "regression"}, "Column 'bought' has no number in line 2"),
        (CSV, {"target": "size", "task": "classification", "features": ["age"]}, "Class '0' has 1 row"),
        (CSV.replace("\n20,", "\n,"), {}, "Column 'age' has no value in line 2. Fill it, leave the column out"),
        (CSV.replace("\n20,", "\ninf,"), {"missing": "impute"}, "Column 'age' holds numbers, but none .* in line 2"),
        (CSV.replace("\n21,", "\n2l,"), {}, "Column 'age' holds numbers, but none .* in line 3"),
        (CSV, {"features": ["age"], "categories": ["size"]}, "`categories` names 'size', not among the features"),
        (CSV.replace(",yes", ","), {}, "Column 'bought' is the target and has no value in lines 3, 5, 7, 9, 11 and 25"),
        (CSV.replace(",no", ",yes"), {}, "one value 'yes'"),
        (CSV.replace("\n20,", "\n20,20,"), {}, "line 2: 5 values under 4 column names"),
        ("", {}, "is empty"),
        ("age,bought\n", {}, "header but no rows"),
        ("age,,bought\n1,2,yes\n", {}, "column 2 has no name"),
        ("age,age,bought\n1,2,yes\n", {}, "'age' more than once"),
        ("age,bought\n1,yes\n", {}, "Class 'yes' has 1 row|one value 'yes'"),
        (CSV.encode("utf-16"), {}, "not in UTF-8"),
        (CSV + '"', {}, "line 62: unexpected end of data"),
        ("x,bought\n" + "".join(f"id{i},{'yes' if i % 2 else 'no'}\n" for i in range(150)), {}, "150 different values"),
        ("x,bought\n" + "".join(f",{'yes' if i % 2 else 'no'}\n" for i in range(9)), {}, "Column 'x' is empty"),
        ("x,bought\n1,2\n", {"task": "regression"}, r"The table has 1 row"),
    ],
)
def test_a_fault_of_the_table_is_told_with_its_place_and_its_remedy(
    tmp_path: Path, text: str | bytes, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ready(tmp_path / "table.csv", text, **arguments)


def test_a_file_that_is_not_there_is_named_with_the_machine_it_must_be_on(tmp_path: Path) -> None:
    data = Table(csv_path=str(tmp_path / "none.csv"))
    data.prepare_data()

    with pytest.raises(FileNotFoundError, match=r"no file .*none.csv on the machine that trains"):
        data.setup("fit")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "Give either `name`"),
        ({"name": "wine", "csv_path": "wine.csv"}, "Give either `name`"),
        ({"name": "wine", "task": "regression"}, "'wine' is for classification"),
    ],
)
def test_arguments_that_contradict_each_other_are_refused_at_once(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Table(**arguments)
