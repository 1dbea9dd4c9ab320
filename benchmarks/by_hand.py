"""Runs by hand: LightningCLI with a config and nothing of the service, each in a fork that has imported all.

`python -m benchmarks.by_hand [FOLDER …]` reads runs from its standard input, one JSON object a line, and answers each
with the process id, then with the exit status. Packages in the folders are there behind those of the product, for
loggers that it does not have.
"""

import importlib
import json
import os
import shutil
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from embedded.lineage import bound_to_parent

PRELOAD = ("pytorch_lightning.cli", "torchmetrics", "benchmarks.timed")
OF_LOGGERS = ("torch.utils.tensorboard", "mlflow.tracking")


class ByHand:
    """A process that runs configs by hand, one after the other; see above for `packages`."""

    def __init__(self, folder: Path, packages: Sequence[Path] = ()) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._count = 0
        with (folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.by_hand", *map(str, packages)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=os.environ | {"OMP_NUM_THREADS": str(os.cpu_count()), "MLFLOW_DISABLE_TELEMETRY": "true"},
                preexec_fn=bound_to_parent(),
                text=True,
            )

    def run(self, config: dict[str, Any]) -> None:
        """Run a config to its end, in a folder of its own. Raises `AssertionError` where it fails."""
        self.start(config)
        assert self._read() == "0", (self._folder / "log").read_text()[-2000:]

    def start(self, config: dict[str, Any]) -> int:
        """Start to run a config, in a folder of its own; returns the process id."""
        self._count += 1
        folder = self._folder / str(self._count)
        folder.mkdir()
        flags = config["trainer"] | {"default_root_dir": str(folder), "accelerator": "cpu", "devices": 1}
        flags |= {"enable_progress_bar": False}
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"folder": str(folder), "config": config | {"trainer": flags}}) + "\n")
        self._process.stdin.flush()
        return int(self._read())

    def _read(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline().strip()

    def clear(self) -> None:
        """Remove what the runs have left."""
        for number in range(1, self._count + 1):
            shutil.rmtree(self._folder / str(number), ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def _serve() -> None:
    sys.path.extend(sys.argv[1:])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for name in [*PRELOAD, *(OF_LOGGERS if sys.argv[1:] else ())]:
        importlib.import_module(name)
    bind = bound_to_parent()
    for line in sys.stdin:
        run = json.loads(line)
        child = os.fork()
        if child == 0:
            bind()
            _train(run["config"], run["folder"])
        answers.write(f"{child}\n")
        answers.flush()
        _, status = os.waitpid(child, 0)
        answers.write(f"{os.waitstatus_to_exitcode(status)}\n")
        answers.flush()


def _train(config: dict[str, Any], folder: str) -> None:
    from pytorch_lightning.cli import LightningCLI

    status = 1
    try:
        os.chdir(folder)
        # Without the callback that saves the config, which would cost a little at every step.
        cli = LightningCLI(args=config, run=False, save_config_callback=None)
        cli.trainer.fit(cli.model, cli.datamodule)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    _serve()
