"""Where the ranks of a run meet: a store that the first of them serves, on one address and on no other.

torch's own way has the store listen on every address of the machine, at a port that was free a moment ago. Here the
first rank takes a port of its own, says which in the file `rendezvous`, and all ranks are clients of it: as under
torch's elastic agent, which serves the store in their place.
"""

import ipaddress
import os
import socket
import time
from datetime import timedelta

import psutil
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # exported, but not in a way that mypy sees

from workers.rundir import Order, RunDir, write_whole

LOOK_SECONDS = 0.02
BACKLOG = 1024
STORE_TIMEOUT = timedelta(minutes=30)


def meet(run: RunDir, order: Order, local_rank: int) -> TCPStore | None:
    """Set what torch and Lightning read of the ranks, once it is known where they meet. Keep what it returns.

    Returns the store on the first rank, None on others. It waits without an end: a supervisor kills what does not meet.
    """
    store = _serve(run, order) if order.node_rank == 0 and local_rank == 0 else None
    while (place := run.read_rendezvous()) is None:
        time.sleep(LOOK_SECONDS)
    host, port = place
    # With these set Lightning takes the ranks as started already, and launches none itself.
    os.environ.update(
        MASTER_ADDR=host,
        MASTER_PORT=str(port),
        WORLD_SIZE=str(order.world_size),
        NODE_RANK=str(order.node_rank),
        LOCAL_RANK=str(local_rank),
        TORCHELASTIC_USE_AGENT_STORE="True",
    )
    # What ranks exchange goes the same way, not by the address that the host's name happens to have.
    if interface := _interface(order.address):
        for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            os.environ.setdefault(variable, interface)
    return store


def _serve(run: RunDir, order: Order) -> TCPStore:
    family = socket.AF_INET6 if ":" in order.address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.bind((order.address, 0))
    listener.listen(BACKLOG)
    port = listener.getsockname()[1]
    store = TCPStore(
        order.address,
        port,
        None,
        is_master=True,
        timeout=STORE_TIMEOUT,
        wait_for_workers=False,
        master_listen_fd=listener.detach(),
    )
    write_whole(run.rendezvous, [order.address, port])
    return store


def _interface(address: str) -> str | None:
    """The network interface that has an address; None: it cannot be told."""
    try:
        wanted = ipaddress.ip_address(address)
    except ValueError:  # a name
        return None
    for name, addresses in psutil.net_if_addrs().items():
        for one in addresses:
            if one.family in (socket.AF_INET, socket.AF_INET6):
                found = ipaddress.ip_address(one.address.partition("%")[0])
                if found == wanted or (found.is_loopback and wanted.is_loopback):
                    return name
    return None
