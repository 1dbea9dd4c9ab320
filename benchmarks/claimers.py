"""Claimers: threads of a process that claim jobs as workers do. It imports little, for several are started at once."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.synchronize import Barrier
from typing import Any

from sqlalchemy import select

from core.claims import Claims
from core.database import Database

START_SECONDS = 60.0


def claim_all(
    url: str, share: Sequence[tuple[int, str]], barrier: Barrier, answers: Any, most: int, seconds: float
) -> None:
    """One process: a thread for each of its claimers, all starting together with those of the other processes.

    `share` are their numbers and workers' ids. Each claims until it has `most` jobs, for so many seconds at the most.
    """
    database = Database(url, pool_size=len(share), timeout_seconds=60.0)
    claims = Claims(database)
    start = threading.Barrier(len(share) + 1, timeout=START_SECONDS)

    def work(claimer: int, worker_id: str) -> list[tuple[int, str, float, float]]:
        had = []
        with database.read() as connection:  # all at once, so that each finds a connection made
            connection.execute(select(1))
            start.wait()
        until = time.monotonic() + seconds
        while len(had) < most and (asked := time.monotonic()) < until:
            claim = claims.claim(worker_id, f"box-{claimer}", 86400.0, lambda _: True)
            at = time.monotonic()
            if claim is not None:
                had.append((claimer, claim.job.id, at, at - asked))
        return had

    with ThreadPoolExecutor(len(share)) as pool:
        working = [pool.submit(work, *one) for one in share]
        barrier.wait(START_SECONDS)
        began = time.monotonic()
        start.wait()
        answers.put((began, [claim for one in working for claim in one.result()]))
    database.close()
