"""The GPT: what it learns in one epoch of `examples/gpt.yaml`, against pairs of characters, and how it writes."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning import Trainer, seed_everything
from torch import Tensor

from models.data import Characters
from models.data.characters import VOCABULARY
from models.text import CharacterGPT
from tests.models.album import Album
from tests.models.runs import command_line, trainer

Trained = tuple[Trainer, CharacterGPT, Characters]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The example after one epoch, five seconds or so."""
    cli = command_line("gpt.yaml", tmp_path_factory.mktemp("gpt"), max_epochs=1, callbacks="null")
    cli.trainer.loggers = [Album()]
    cli.model.sample_length = 150
    cli.trainer.fit(cli.model, cli.datamodule)
    return cli.trainer, cli.model.eval(), cli.datamodule


def small(**arguments: Any) -> CharacterGPT:
    return CharacterGPT(**{"width": 16, "num_heads": 2, "num_layers": 1, "block_size": 16, **arguments})


def pairs_loss(data: Characters) -> float:
    """Nats per character on the validation text of a table that says what follows each character in the training's."""
    text = data.train_set.tensors[0][:, : data.block_size].flatten()
    counts = torch.full((len(VOCABULARY), len(VOCABULARY)), 0.1)
    counts.index_put_((text[:-1], text[1:]), torch.ones(len(text) - 1), accumulate=True)
    windows = data.val_set.tensors[0]
    return F.cross_entropy((counts / counts.sum(dim=1, keepdim=True)).log()[windows[:, :-1]].mT, windows[:, 1:]).item()


def test_it_foresees_far_more_than_a_table_of_pairs_of_characters(trained: Trained) -> None:
    run, _, data = trained
    loss = run.callback_metrics["val_loss"].item()

    assert 2.3 < pairs_loss(data) < 2.6
    assert loss < 2.0
    assert run.callback_metrics["val_bpc"].item() == pytest.approx(loss / math.log(2))


def test_its_logger_gets_a_text_after_a_validation(trained: Trained) -> None:
    run, model, data = trained
    assert isinstance(run.logger, Album)
    [(tag, text, step)] = run.logger.kept
    assert (tag, step) == ("sample", run.num_training_batches)
    assert text == model.write(data.encode("\n")[None], 150)[0]
    words = text.split()
    assert len(words) > 15
    assert {"the", "of", "is", "in"} & set(words)


def test_predictions_go_on_from_the_prompts(trained: Trained, tmp_path: Path) -> None:
    _, model, data = trained
    batches: Any = trainer(tmp_path).predict(model, data)
    texts = [text for batch in batches for text in batch]

    assert [text[: len(prompt)] for text, prompt in zip(texts, data.prompts, strict=True)] == data.prompts
    assert [len(text) for text in texts] == [150 + len(prompt) for prompt in data.prompts]


def test_a_checkpoint_loads_outside_and_writes_the_same(trained: Trained, tmp_path: Path) -> None:
    run, model, data = trained
    run.save_checkpoint(tmp_path / "model.ckpt")

    loaded = CharacterGPT.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True).eval()

    prompt = data.encode("A class ")[None]
    assert loaded.write(prompt, 80) == model.write(prompt, 80)


def test_it_trains_the_same_with_samples_and_without(tmp_path: Path) -> None:
    states: list[dict[str, Tensor]] = []
    for sample_length in (0, 20):
        seed_everything(5, verbose=False)
        model = small(dropout=0.2, sample_length=sample_length)
        data = Characters(block_size=16, batch_size=4)
        flags: dict[str, Any] = {"limit_train_batches": 6, "val_check_interval": 2, "limit_val_batches": 1}
        trainer(tmp_path, max_epochs=1, logger=Album(), **flags).fit(model, data)
        states.append(model.state_dict())

    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_no_character_sees_those_after_it() -> None:
    torch.manual_seed(0)
    model = small().eval()
    one = torch.randint(len(VOCABULARY), (1, 16))
    other = one.clone()
    other[0, 10:] = (other[0, 10:] + 1) % len(VOCABULARY)

    assert torch.equal(model(one)[:, :10], model(other)[:, :10])
    assert not torch.allclose(model(one)[:, 10:], model(other)[:, 10:])


def test_the_order_of_characters_matters() -> None:
    torch.manual_seed(0)
    model = small().eval()

    assert not torch.allclose(model(torch.tensor([[3, 4, 5]]))[:, -1], model(torch.tensor([[4, 3, 5]]))[:, -1])


def test_matrices_decay_and_the_learning_rate_warms_up_and_falls_to_a_tenth(tmp_path: Path) -> None:
    class Watched(CharacterGPT):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            self.rates = [*getattr(self, "rates", []), self.trainer.optimizers[0].param_groups[0]["lr"]]

    model = Watched(width=16, num_heads=2, num_layers=1, block_size=16, lr=0.1, warmup_steps=4)
    run = trainer(tmp_path, max_steps=20, limit_val_batches=0)
    run.fit(model, Characters(block_size=16, batch_size=4))
    decaying, steady = run.optimizers[0].param_groups

    assert model.rates[:5] == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1])
    assert model.rates[5:] == sorted(model.rates[5:], reverse=True)
    assert decaying["lr"] == pytest.approx(0.01)
    assert (decaying["weight_decay"], steady["weight_decay"]) == (0.1, 0.0)
    assert {p.dim() for p in decaying["params"]} == {2}
    assert {p.dim() for p in steady["params"]} == {1}
    assert len(decaying["params"]) + len(steady["params"]) == len(list(model.parameters()))


@pytest.mark.parametrize(
    ("arguments", "data", "flags", "told"),
    [
        ({"block_size": 8}, {}, {"max_steps": 1}, "A window has 16 characters, the model's block_size is 8"),
        ({"vocabulary": "abc"}, {}, {"max_steps": 1}, "`vocabulary` of Characters and of the model must be the same"),
        ({}, {}, {"max_epochs": -1}, "set max_epochs or max_steps"),
    ],
)
def test_what_does_not_fit_is_named(
    arguments: dict[str, Any], data: dict[str, Any], flags: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=told):
        trainer(tmp_path, num_sanity_val_steps=0, **flags).fit(small(**arguments), Characters(block_size=16, **data))


def test_a_width_that_cannot_be_shared_among_the_heads_is_refused() -> None:
    with pytest.raises(ValueError, match="`width` 20 must be a multiple of twice the `num_heads`, 8"):
        CharacterGPT(width=20)
