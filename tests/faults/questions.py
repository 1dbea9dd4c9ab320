"""What callers ask while the database is away, and how they are answered."""

import threading
from collections import Counter

import httpx

from tests.faults.faults import Fault, Ground, Hit
from tests.faults.schedule import Draw, Planned

PAUSE_SECONDS = 0.25
READ_SECONDS = 5.0
WRITE_SECONDS = 25.0
"""Longer than the API waits for a database that is locked."""
LOOK_SECONDS = 0.1
AWAY = "503 with Retry-After"


class Questions(Fault):
    """Reads and writes, again and again. A database that is gone refuses both, one that is locked serves reads.

    Nothing is drawn of it: it belongs to the scripted outage.
    """

    kind = "questions"
    draw = Draw(0.0)

    def __init__(self, planned: Planned) -> None:
        super().__init__(planned)
        self.answers: Counter[str] = Counter()
        """How many answers there were of each kind, e.g. `GET 200`."""
        self._over = threading.Event()
        self._asking: list[threading.Thread] = []

    def inject(self, ground: Ground) -> Hit:
        path = f"/v1/jobs/{self.pick(ground.unended(), 'no job')}"
        stack = ground.world.stack
        for method, asked, wait_seconds in (
            ("GET", path, READ_SECONDS),
            ("POST", f"{path}/checkpoints", WRITE_SECONDS),
        ):
            http = httpx.Client(
                base_url=stack.address,
                headers={"Authorization": f"Bearer {stack.key}"},
                timeout=wait_seconds,
                trust_env=False,
            )
            self._asking.append(threading.Thread(target=self._ask, args=(http, method, asked), name=f"asks {method}"))
        for thread in self._asking:
            thread.start()
        return Hit(path)

    def heal(self, ground: Ground, hit: Hit) -> float | None:
        self._over.set()
        if any(thread.is_alive() for thread in self._asking):
            return LOOK_SECONDS
        production = ground.world.backend == "production"
        due = {f"GET {AWAY}", f"POST {AWAY}"} if production else {"GET 200"}
        # Also well: what a database serves that is locked, or back while the last one still asks.
        well = due | {"GET 200", "POST 202", f"POST {AWAY}"}
        for what in sorted(due - self.answers.keys()):
            ground.complain(f"while the database was away, nothing was answered {what}: {dict(self.answers)}")
        for what in sorted(self.answers.keys() - well):
            ground.complain(f"while the database was away, {self.answers[what]} answers were {what}")
        return None

    def _ask(self, http: httpx.Client, method: str, path: str) -> None:
        with http:
            while not self._over.is_set():
                try:
                    answer = http.request(method, path)
                    away = answer.status_code == httpx.codes.SERVICE_UNAVAILABLE and "Retry-After" in answer.headers
                    self.answers[f"{method} {AWAY if away else answer.status_code}"] += 1
                except httpx.TransportError as error:
                    self.answers[f"{method} {type(error).__name__}"] += 1
                self._over.wait(PAUSE_SECONDS)
