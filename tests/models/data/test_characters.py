from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models.data import Characters
from models.data.characters import VOCABULARY, cut


def ready(**arguments: Any) -> Characters:
    data = Characters(**arguments)
    data.prepare_data()
    data.setup("fit")
    return data


def file_of(folder: Path, text: str) -> str:
    path = folder / "text.txt"
    path.write_text(text, "utf-8")
    return str(path)


def text_of(data: Characters, windows: Tensor) -> str:
    return "".join(data.vocabulary[index] for index in windows[:, : data.block_size].flatten())


def test_pythons_reference_is_english_prose_and_no_paragraph_stands_in_it_twice() -> None:
    data = ready()
    paragraphs = data.path.read_text("utf-8").strip().split("\n\n")

    assert 150_000 < sum(map(len, paragraphs)) < 400_000
    assert len(set(paragraphs)) == len(paragraphs)
    assert not any(mark in "".join(paragraphs) for mark in ("::=", ">>>", "\n"))
    assert set("".join(paragraphs)) <= set(VOCABULARY)


def test_each_paragraph_is_in_one_split(tmp_path: Path) -> None:
    names = [f"<{number:02d}>" for number in range(40)]
    data = ready(text_path=file_of(tmp_path, "\n\n".join([*names, names[0]])), block_size=3)
    parts = [text_of(data, part.tensors[0]) for part in (data.train_set, data.val_set, data.test_set)]

    assert all(sum(name in part for part in parts) <= 1 for name in names)
    assert sum(name in part for name in names for part in parts) >= 37, "at most an end of each split is left out"


def test_the_split_is_the_same_whatever_the_batch_size_and_another_with_another_seed() -> None:
    one, same, other = ready(batch_size=3), ready(batch_size=50), ready(split_seed=1)

    assert torch.equal(one.val_set.tensors[0], same.val_set.tensors[0])
    assert not torch.equal(one.val_set.tensors[0][0], other.val_set.tensors[0][0])


def test_what_comes_next_is_the_window_one_character_later() -> None:
    data = ready(batch_size=2)
    x, y = data.on_after_batch_transfer(next(iter(data.val_dataloader())), 0)

    assert x.shape == y.shape == (2, 64)
    assert torch.equal(x[:, 1:], y[:, :-1])


def test_a_window_is_cut_from_any_place_of_its_stretch() -> None:
    torch.manual_seed(0)
    windows = cut(torch.arange(9).expand(200, 9), 5)

    assert set(windows[:, 0].tolist()) == {0, 1, 2, 3, 4}
    assert torch.equal(windows - windows[:, :1], torch.arange(5).expand(200, 5))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("one", r"1 paragraph\(s\); training, validation and test need one each"),
        ("a\n\nb\n\nc", "a split has 3 characters, and a block_size of 64 needs 129"),
        ("ä\n\nb\n\nü", r"lacks 2 character\(s\) of .*: 'äü'. Take them out"),
    ],
)
def test_a_text_that_cannot_be_learned_from_is_refused_with_what_to_do(text: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=told):
        ready(text_path=file_of(tmp_path, text))


def test_a_text_too_large_to_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.data.characters.TEXT_BYTES_MAX", 10)

    with pytest.raises(ValueError, match="has 11 bytes; at most 10 can be read"):
        ready(text_path=file_of(tmp_path, "x" * 11))


def test_a_vocabulary_names_each_character_once() -> None:
    with pytest.raises(ValueError, match="each of them once"):
        Characters(vocabulary="aba")
    with pytest.raises(ValueError, match="must have a character"):
        Characters(prompts=["a", ""])
