import json
import subprocess
import sys
from typing import Any

import pytest

SCRIPT = """
import json, os, signal, sys, threading
import pytorch_lightning, torch, torchmetrics.classification

before = set(sys.modules)
import models.autoencoder, models.data, models.gan, models.loops, models.tabular, models.text, models.vision

new = {name.partition(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)
if os.fork() == 0:
    signal.alarm(30)
    torch.manual_seed(0)
    model = models.vision.ImageClassifier(width=64)
    model(torch.randn(64, 1, 32, 32)).sum().backward()
    os._exit(7)
forked = os.waitstatus_to_exitcode(os.wait()[1])
print(json.dumps({"new": sorted(new), "threads": threading.active_count(), "forked": forked}))
"""


@pytest.fixture(scope="module")
def imported() -> dict[str, Any]:
    """What a process says that has imported the models and then forked one that trains a step."""
    ran = subprocess.run([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, text=True, check=True, timeout=150)
    answer: dict[str, Any] = json.loads(ran.stdout)
    return answer


def test_importing_the_models_brings_nothing_heavy_along(imported: dict[str, Any]) -> None:
    assert imported["new"] == ["annotated_types", "filelock", "models"]


def test_a_process_forked_after_the_import_can_train(imported: dict[str, Any]) -> None:
    # A tensor operation or a thread at import would leave the fork with OpenMP's locks held by nobody.
    assert imported["threads"] == 1
    assert imported["forked"] == 7
