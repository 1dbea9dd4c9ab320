"""10,000 clients that watch one job on one API process, half by server-sent events, half by long polls.

A worker's report changes the job; each client's delay counts from before that commit to when it has the news, all
news read by one process. The others poll again at once, as clients do.
"""

import itertools
import resource
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil

from benchmarks.api import api
from benchmarks.figure import Figure, percentile
from benchmarks.running import running
from benchmarks.servers import postgres, tables
from benchmarks.watching import Watchers
from core.attempts import Attempts
from tests.servers import BrokerServer
from tests.waiting import wait_until

CLIENTS = 10_000
CHANGES = 5
AIM_SECONDS = 1.0
SPARE_FILES = 500
"""Files that a process has open beside its clients'."""
IDLE_SECONDS = 3.0


def measure(folder: Path) -> list[Figure]:
    """Delays of the slowest hundredth, and what a watcher costs."""
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    clients = min(CLIENTS, files - SPARE_FILES)
    few = "" if clients == CLIENTS else f"; a process may have {files} files open here, so fewer clients"
    with ExitStack() as opened:
        bell = BrokerServer()
        opened.callback(bell.close)
        database, url, key = opened.enter_context(tables(postgres(), folder))
        (claim,) = running(database, 1)
        room = str(clients + 10)
        address = opened.enter_context(api(url, bell.url, folder, LIGHTYARD_WAITERS_MAX_COUNT=room))
        server = next(one for one in psutil.Process().children() if "lightyard-api" in " ".join(one.cmdline()))
        http = opened.enter_context(httpx.Client(base_url=address, trust_env=False))
        tag = http.get(f"/v1/jobs/{claim.job.id}", headers={"Authorization": f"Bearer {key}"}).headers["ETag"]
        watchers = opened.enter_context(Watchers(address, claim.job.id, key))

        def all_wait(count: int) -> None:
            told = f"lightyard_http_waiters {float(count)}"
            wait_until(lambda: told in http.get("/metrics").text, what=told, deadline_seconds=60)

        sizes = [server.memory_info().rss]
        for part in ({"streams": clients // 2}, {"polls": clients - clients // 2, "tag": tag}):
            watchers.open(**part)
            all_wait(clients // 2 if "streams" in part else clients)
            sizes.append(server.memory_info().rss)
        busy = server.cpu_percent(), time.sleep(IDLE_SECONDS), server.cpu_percent()
        p99s, streams, polls = [], [], []
        attempts = Attempts(database)
        for _ in range(CHANGES):
            all_wait(clients)
            watchers.expect()
            changed_at = time.monotonic()
            attempts.tell(claim.job.id, claim.token, "first_step")
            by_stream, by_poll = ([moment - changed_at for moment in one] for one in watchers.heard())
            p99s.append(percentile([*by_stream, *by_poll], 0.99))
            streams += by_stream
            polls += by_poll
    each = [(after - before) / (clients / 2) / 1024 for before, after in itertools.pairwise(sizes)]
    medians = f"median {percentile(streams, 0.5):.2f} s by stream, {percentile(polls, 0.5):.2f} s by poll"
    return [
        Figure(
            8,
            f"a change reaching {clients:,} clients of one API process, half by SSE, half by long poll: p99 from the "
            "commit to the receipt; PostgreSQL",
            "s",
            p99s,
            aim=f"p99 ≤ {AIM_SECONDS:g} s",
            met=percentile([*streams, *polls], 0.99) <= AIM_SECONDS and clients == CLIENTS,
            note=f"one core writes {clients:,} answers; {medians}{few}",
        ),
        Figure(8, "memory of the API process per client that streams", "KiB", each[:1]),
        Figure(
            8,
            "memory of the API process per client that waits by long poll",
            "KiB",
            each[1:],
            note=f"while nothing changes, all of them together take {busy[-1]:.0f} % of a core",
        ),
    ]
