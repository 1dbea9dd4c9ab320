"""A checkpoint's weights as a second download: a safetensors file, made without torch."""

import json
from pathlib import Path

import torch
import yaml
from safetensors.torch import load, load_file

from lightyard import Client
from models.vision import ImageClassifier
from tests.e2e.conftest import User
from tests.e2e.lightning.conftest import lesson


def test_the_weights_of_a_checkpoint_are_a_safetensors_file_of_what_torch_loads(pupil: User, tmp_path: Path) -> None:
    config = yaml.safe_load(lesson("structure"))
    config["trainer"] |= {"limit_train_batches": 2, "limit_val_batches": 1, "max_epochs": 1}
    job = pupil.ended(pupil.submit(config))
    assert job["status"] == "succeeded", job["reason"]
    checkpoint_id = job["last_checkpoint_id"]
    expected = torch.load(pupil.download(checkpoint_id, tmp_path / "whole.ckpt"), weights_only=True)["state_dict"]

    answer = pupil.client.get(f"/v1/checkpoints/{checkpoint_id}/weights")
    assert answer.status_code == 200, answer.text
    weights = load(answer.content)
    assert set(weights) == set(expected)
    assert [name for name, tensor in weights.items() if not torch.equal(tensor, expected[name])] == []
    header = json.loads(answer.content[8 : 8 + int.from_bytes(answer.content[:8], "little")])
    assert header["__metadata__"] == {"format": "pt"}

    with Client(pupil.stack.address, pupil.stack.key) as client:
        path = client.download(job["id"], which="last", to=tmp_path, weights=True)
    assert path == tmp_path / f"{checkpoint_id}.safetensors"
    ImageClassifier(width=8).load_state_dict(load_file(path), strict=True)
