"""Two optimizers, stepped by hand, as a job."""

import struct
from pathlib import Path

import torch

from models.gan import ImageGAN
from tests.e2e.conftest import User
from tests.e2e.lightning.conftest import lesson

BATCHES, EPOCHS = 10, 3
SERIES = ("d_loss", "g_loss", "d_lr", "g_lr", "val_frechet")


def test_a_gan_trains_as_a_job_with_the_series_of_both_networks_and_pictures_of_its_samples(
    pupil: User, tmp_path: Path
) -> None:
    job = pupil.ended(pupil.submit(lesson("gan")))
    assert job["status"] == "succeeded", job["reason"]
    assert set(SERIES) <= set(job["metrics"])
    assert job["progress"]["global_step"] == 2 * BATCHES * EPOCHS, "a batch has a step of either optimizer"

    url = f"/v1/jobs/{job['id']}"
    losses = pupil.client.get(f"{url}/metrics/g_loss").json()["points"]
    assert [point["step"] for point in losses] == list(range(BATCHES * EPOCHS)), "loggers count batches"
    rates = pupil.client.get(f"{url}/metrics/d_lr").json()["points"]
    assert [round(point["value"], 6) for point in rates] == [0.002, 0.0014, 0.0008]

    listed = pupil.client.get(f"{url}/artifacts", params={"limit": 200}).json()["data"]
    pictures = sorted(one["name"] for one in listed if one["name"].startswith("images/samples/"))
    assert pictures == [f"images/samples/step-{2 * BATCHES * epoch:08d}.png" for epoch in (1, 2, 3)]
    png = pupil.client.get(f"{url}/artifacts/{pictures[-1]}").content
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", png[16:24]) == (356, 356), "ten by ten digits"

    [last] = [one for one in pupil.client.get(f"{url}/checkpoints").json()["data"] if one["name"] == "last.ckpt"]
    model = ImageGAN.load_from_checkpoint(pupil.download(last["id"], tmp_path / "last.ckpt"), weights_only=True)
    assert model.eval()(torch.arange(10)).shape == (10, 1, 8, 8)
