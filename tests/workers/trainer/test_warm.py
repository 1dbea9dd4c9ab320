"""The fork server that trainers are forked from, and what it must not have."""

import json
import sys
from pathlib import Path

import psutil
import torch

from workers import forkserver
from workers.forkserver import Fork


def multiply(path: str) -> None:
    """A matrix product and its gradient, as the first thing that a fork does; and what it was born with."""
    told = {"warm": "workers.trainer.build" in sys.modules, "cuda": torch.cuda.is_initialized()}
    torch.randn(300, 300, requires_grad=True).matmul(torch.randn(300, 300)).sum().backward()
    Path(path).write_text(json.dumps(told))


def test_the_warm_parent_has_no_thread_that_would_make_its_forks_hang(warm_fork_server: None, tmp_path: Path) -> None:
    fork = Fork(__name__, "multiply", str(tmp_path / "told"))
    assert fork.wait(60.0), "a trainer would hang in its first matrix product"
    assert fork.exit_code == 0
    assert json.loads((tmp_path / "told").read_text()) == {"warm": True, "cuda": False}
    # NumPy's and SciPy's OpenBLAS start threads at import and end them before a fork: they are no danger. OpenMP's are.
    server = forkserver._server_pid()
    assert psutil.Process(server).num_threads() == 1, "threads survive a fork"
