"""Where ranks meet."""

import os
from pathlib import Path

import psutil
import pytest
from torch.distributed import TCPStore

from workers.rundir import Order, RunDir, write_whole
from workers.trainer.rendezvous import meet

VARIABLES = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "NODE_RANK", "LOCAL_RANK", "TORCHELASTIC_USE_AGENT_STORE")


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is set is forgotten afterwards."""
    for name in (*VARIABLES, "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.setenv(name, "before")
        monkeypatch.delenv(name)


def test_ranks_meet_at_a_port_that_no_other_machine_reaches(tmp_path: Path) -> None:
    before = {one.laddr for one in psutil.Process().net_connections("tcp") if one.status == psutil.CONN_LISTEN}
    run = RunDir(tmp_path / "attempt-1")
    order = Order("job_1", 1, {}, ["cpu:0"], [], nodes=2)
    run.create(order)
    store = meet(run, order, 0)
    assert store is not None
    opened = {one.laddr for one in psutil.Process().net_connections("tcp") if one.status == psutil.CONN_LISTEN} - before
    assert {one.ip for one in opened} == {"127.0.0.1"}
    assert run.read_rendezvous() == ("127.0.0.1", store.port)
    assert os.environ["GLOO_SOCKET_IFNAME"] == os.environ["NCCL_SOCKET_IFNAME"] == "lo"

    other = RunDir(tmp_path / "attempt-1-node-1")
    behind = Order("job_1", 1, {}, ["cpu:0"], [], nodes=2, node_rank=1)
    other.create(behind)
    write_whole(other.rendezvous, run.read_rendezvous())
    assert meet(other, behind, 0) is None
    assert [os.environ[name] for name in VARIABLES] == ["127.0.0.1", str(store.port), "2", "1", "0", "True"]
    client = TCPStore("127.0.0.1", store.port, 2, is_master=False)
    client.set("a", "b")
    assert store.get("a") == b"b"


@pytest.mark.parametrize("text", ["", "[]", '["127.0.0.1", 0]', '["127.0.0.1", "x"]', "{}"])
def test_what_is_no_place_to_meet_is_none(tmp_path: Path, text: str) -> None:
    run = RunDir(tmp_path)
    run.rendezvous.write_text(text)
    assert run.read_rendezvous() is None
