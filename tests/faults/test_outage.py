"""The scripted outage at the pace of tests; at the service's own it is `python -m tests.faults --outage 30`."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.faults.faults import BOTH
from tests.faults.outage import endure

OUTAGE_SECONDS = 7.0
"""More than two leases."""


def test_a_job_outlives_a_long_outage_of_broker_and_database_on_its_first_attempt(tmp_path: Path) -> None:
    # Side by side: it is waiting for the most part. A thread must outlive what it starts, and does.
    with ThreadPoolExecutor(len(BOTH)) as pool:
        ended = [pool.submit(endure, tmp_path / backend, backend, OUTAGE_SECONDS) for backend in BOTH]
        for one in ended:
            assert not one.result().verdict.violations, str(one.result())
