"""Whether a stack can take a job and run it."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

POLL_SECONDS = 0.2


class NotReady(Exception):
    """The stack did not become ready; the message says what was still missing."""


def wait_until_ready(address: str, key_path: Path, seconds: float, alive: Callable[[], bool]) -> str:
    """Wait until the API has its database and a worker has announced itself; returns the API key.

    `alive` is asked between the tries, and its False ends the wait. Raises `NotReady` then, or after `seconds`.
    """
    pause = threading.Event()
    deadline = time.monotonic() + seconds
    with httpx.Client(base_url=address, timeout=5.0, trust_env=False) as http:
        while True:
            missing = _missing(http, key_path)
            if missing is None:
                return key_path.read_text().strip()
            if not alive():
                raise NotReady(f"it stopped while {missing}")
            if time.monotonic() > deadline:
                raise NotReady(f"after {seconds:.0f} s still {missing}")
            pause.wait(POLL_SECONDS)


def online_workers(http: httpx.Client, key: str) -> list[dict[str, Any]]:
    """The workers that are up. Raises `httpx.HTTPError`."""
    answer = http.get("/v1/workers", params={"limit": 200}, headers=_authorization(key))
    answer.raise_for_status()
    return [worker for worker in answer.json()["data"] if worker["status"] == "online"]


def _missing(http: httpx.Client, key_path: Path) -> str | None:
    """What the stack still lacks, or None."""
    try:
        if http.get("/readyz").status_code != httpx.codes.OK:
            return "the API had no database"
        if not key_path.exists():
            return f"there was no key in {key_path}"
        key = key_path.read_text().strip()
        if not online_workers(http, key):
            return "no worker was up"
        catalog = http.get("/v1/catalog", params={"limit": 1}, headers=_authorization(key)).raise_for_status()
        if not catalog.json()["data"]:
            return "no worker had announced what it can run"
    except httpx.HTTPStatusError as error:
        return f"the API answered {error.response.status_code} to the key in {key_path}"
    except httpx.TransportError as error:
        return f"the API did not answer ({error})"
    return None


def _authorization(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}
