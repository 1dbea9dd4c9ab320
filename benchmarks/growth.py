"""What becomes of each call as the database grows: 1 k, 100 k and 1 M jobs, then 100 M metric points, on PostgreSQL.

Three databases of one server, each with an API process of its own, are asked by turns, so that whatever else happens
on the machine happens to all of them. Jobs are submitted, read, listed and cancelled over HTTP, one call at a time, and
claimed as workers do. `docs/growth.svg` shows the curves.
"""

import random
import statistics
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import orjson

from benchmarks import digits
from benchmarks.api import announce, api
from benchmarks.caller import Caller
from benchmarks.figure import Figure, percentile
from benchmarks.population import LEASE_SECONDS, Population, fill, fill_metrics, id_of
from benchmarks.servers import postgres, tables
from core.attempts import Attempts
from core.claims import Claim, Claims
from core.database import Database
from core.fleet import Fleet
from core.ids import new_id
from core.security import authenticate
from tests.servers import BrokerServer

POPULATIONS = {
    "1 k jobs": Population(1_000, 200, 50),
    "100 k jobs": Population(100_000, 2_000, 500),
    "1 M jobs": Population(1_000_000, 5_000, 2_000),
}
LEAST, MOST = "1 k jobs", "1 M jobs"
WITH_POINTS = "1 M jobs, 100 M points"
POINTS = 100_000_000
ROUNDS = 3
CALLS = 30
"""Of each kind in each round: a round's p95 leaves one of them out."""
AIM_RATIO = 1.5
PICTURE = Path(__file__).resolve().parent.parent / "docs" / "growth.svg"
WIDTH, HEIGHT, LEFT, RIGHT, BOTTOM, MARGIN = 760, 400, 56, 170, 44, 16
"""Pixels."""
COLOURS = ("#b3400e", "#1f6fb2", "#3a8f3a", "#7a4fa3", "#a38a00", "#0f8f8f", "#c2478c", "#555555")

Samples = dict[str, list[list[float]]]
"""By what was done: milliseconds of each call, round by round."""


class Grown:
    """One database with its API process, and a caller and a worker that use it."""

    def __init__(self, database: Database, address: str, key: str, population: Population) -> None:
        self._database = database
        self._caller = Caller(address, {"Authorization": f"Bearer {key}"})
        self._claims, self._attempts = Claims(database), Attempts(database)
        self._claimed: list[Claim] = []
        self._worker_id = new_id("wrk")
        devices = [{"id": f"gpu:{index}", "name": "GPU", "memory_bytes": 1} for index in range(CALLS)]
        Fleet(database).join(self._worker_id, "claimer", 1, devices, {})
        self._population = population
        self._dice = random.Random(7)  # noqa: S311  # it draws job numbers
        self._submitted: list[str] = []
        self._config = digits.config()
        one_name = 2 * self._dice.randrange(population.studies // 2) + 1  # the caller's jobs are those of odd numbers
        self.verbs: Mapping[str, Callable[[], object]] = {
            "submit": self._submit,
            "claim": self._claim,
            "poll": self._poll,
            "list, newest": lambda: self._list(""),
            "list, by status": lambda: self._list("&status=failed"),
            "list, by label": lambda: self._list("&label.team=team-1"),
            "list, by name": lambda: self._list(f"&name=digits-{one_name}"),
            "cancel": self._cancel,
        }

    def measure(self, calls: int) -> dict[str, list[float]]:
        """Milliseconds of so many calls of each kind; then it is as it was."""
        found = {}
        for name, verb in self.verbs.items():
            took = []
            for _ in range(calls):
                began = time.perf_counter()
                verb()
                took.append((time.perf_counter() - began) * 1000)
            found[name] = took
        while self._claimed:
            claim = self._claimed.pop()
            self._attempts.stopped(claim.job.id, claim.token, "it was only measured", saved=False)
        return found

    def _submit(self) -> None:
        job = {"name": "digits-new", "labels": {"team": "team-1"}, "config": self._config}
        headers = {"Content-Type": "application/json", "Idempotency-Key": uuid.uuid4().hex}
        made = self._caller.json("POST", "/v1/jobs", orjson.dumps(job), **headers)
        self._submitted.append(made["id"])

    def _claim(self) -> None:
        claim = self._claims.claim(self._worker_id, "claimer", LEASE_SECONDS, lambda _: True)
        assert claim is not None
        self._claimed.append(claim)

    def _poll(self) -> None:
        """A job of the caller's, half of them running, a quarter queued, a quarter ended."""
        spans = ((self._population.ended, self._population.started), (self._population.started, self._population.jobs))
        first, last = self._dice.choice((spans[0], spans[0], spans[1], (0, self._population.ended)))
        number = self._dice.randrange(first, last) + 1
        self._caller.json("GET", f"/v1/jobs/{id_of(number - 1 + number % 2)}")

    def _list(self, query: str) -> None:
        page = self._caller.json("GET", f"/v1/jobs?limit=20{query}")
        assert page["data"], query

    def _cancel(self) -> None:
        self._caller.json("POST", f"/v1/jobs/{self._submitted.pop()}/cancel")

    def close(self) -> None:
        """End the connection."""
        self._caller.close()


def measure(folder: Path) -> list[Figure]:
    """Fill, measure by turns, fill the points in, measure the least and the most again; writes the picture."""
    with ExitStack() as opened:
        bell = BrokerServer()
        opened.callback(bell.close)
        server = postgres()
        grown: dict[str, Grown] = {}
        for name, population in POPULATIONS.items():
            place = folder / str(population.jobs)
            place.mkdir()
            database, url, key = opened.enter_context(tables(server, place))
            announce(database)
            fill(database, authenticate(database, key).project_id, population)
            address = opened.enter_context(api(url, bell.url, place))
            grown[name] = Grown(database, address, key, population)
            opened.callback(grown[name].close)
        found = _by_turns(grown)
        fill_metrics(database, POPULATIONS[MOST], POINTS)
        again = _by_turns({LEAST: grown[LEAST], WITH_POINTS: grown[MOST]})
    curves = {
        verb: [_p95(found[name][verb]) for name in POPULATIONS] + [_p95(again[WITH_POINTS][verb])]
        for verb in found[LEAST]
    }
    PICTURE.write_text(svg(curves))
    figures = []
    for verb, (least, middle, *_) in curves.items():
        for name, base, sized in ((MOST, found, found[MOST]), (WITH_POINTS, again, again[WITH_POINTS])):
            ours, theirs = _p95s(sized[verb]), _p95s(base[LEAST][verb])
            ratio = statistics.median(ours) / statistics.median(theirs)
            figures.append(
                Figure(
                    10,
                    f"{verb}: p95 at {name}",
                    "ms",
                    ours,
                    aim=f"≤ {AIM_RATIO:g} × that at {LEAST}",
                    met=ratio <= AIM_RATIO,
                    peer=f"itself at {LEAST}",
                    theirs=theirs,
                    note=f"{middle / least:.2g} × at 100 k jobs" if name == MOST else "",
                )
            )
    return figures


def _by_turns(grown: Mapping[str, Grown]) -> dict[str, Samples]:
    for one in grown.values():
        one.measure(CALLS // 4)  # statements are prepared and caches filled
    found: dict[str, Samples] = {name: {} for name in grown}
    for _ in range(ROUNDS):
        for name, one in grown.items():
            for verb, took in one.measure(CALLS).items():
                found[name].setdefault(verb, []).append(took)
    return found


def _p95s(rounds: Sequence[Sequence[float]]) -> list[float]:
    return [percentile(took, 0.95) for took in rounds]


def _p95(rounds: Sequence[Sequence[float]]) -> float:
    return statistics.median(_p95s(rounds))


def svg(curves: Mapping[str, Sequence[float]]) -> str:
    """The p95 of each call, by the size of the database, with axes and a legend."""
    sizes = [*POPULATIONS, WITH_POINTS]
    most = max(value for values in curves.values() for value in values) * 1.05

    def x(place: float) -> float:
        return LEFT + 20 + place / (len(sizes) - 1) * (WIDTH - LEFT - RIGHT - 70)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - value / most * (HEIGHT - BOTTOM - MARGIN)

    tick = next(step for step in (0.5, 1, 2, 5, 10, 20, 50, 100, 1000) if most / step <= 10)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif"'
        ' font-size="12">',
        "<title>The p95 of each call by the size of the database</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<path d="M{LEFT} {MARGIN}V{y(0):.1f}H{WIDTH - RIGHT}" fill="none" stroke="#444"/>',
    ]
    parts += [
        f'<text x="{x(place):.1f}" y="{y(0) + 18:.1f}" text-anchor="middle">{size}</text>'
        for place, size in enumerate(sizes)
    ]
    for count in range(int(most / tick) + 1):
        at = y(count * tick)
        parts.append(f'<path d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>' if count else "")
        parts.append(f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{count * tick:g}</text>')
    middle = f'text-anchor="middle" transform="rotate(-90 14 {HEIGHT / 2:g})"'
    parts.append(f'<text x="14" y="{HEIGHT / 2:g}" {middle}>p95, milliseconds</text>')
    for number, ((verb, values), colour) in enumerate(zip(curves.items(), COLOURS, strict=True)):
        path = " ".join(f"{x(place):.1f},{y(value):.1f}" for place, value in enumerate(values))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{x(place):.1f}" cy="{y(value):.1f}" r="3" fill="{colour}"/>'
            for place, value in enumerate(values)
        ]
        top = MARGIN + 16 + 20 * number
        parts.append(f'<path d="M{WIDTH - RIGHT + 30} {top}h24" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{WIDTH - RIGHT + 62}" y="{top + 4}">{verb}</text>')
    return "\n".join([*filter(None, parts), "</svg>", ""])
