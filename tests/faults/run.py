"""One run: a seed's jobs and faults on a stack, until everything is healed and every job has ended."""

import heapq
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tests.faults.caller import Caller
from tests.faults.faults import Fault, Hit, NotNow
from tests.faults.fence import Mark, read_marks
from tests.faults.schedule import Schedule, Size, Submission
from tests.faults.undisturbed import FINAL, Result, config_of, result_of
from tests.faults.world import World

TICK_SECONDS = 0.05
RETRY_SECONDS = 0.3
END_SECONDS = 90.0
"""From the last healing until every job must have ended."""
READY_SECONDS = 60.0
ATTEMPTS_MAX = 50


@dataclass
class Happened:
    """A fault that was injected, or why it was not. Times by the machine's monotonic clock."""

    fault: Fault
    at: float
    hit: Hit | None = None
    skipped: str | None = None
    healed_at: float | None = None

    def concerns(self, job_id: str, worker: str) -> bool:
        """Whether it hit a job or the worker that runs it."""
        return self.hit is not None and (job_id in self.hit.jobs or worker in self.hit.workers)


@dataclass
class Evidence:
    """What a run left behind, seen from outside, by job id. Unix time is `offset` ahead of the monotonic clock."""

    world: World
    caller: Caller
    schedule: Schedule
    offset: float
    undisturbed: Mapping[str, Result]
    happened: list[Happened] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    submitted: dict[str, str] = field(default_factory=dict)
    """The model of each job that was accepted."""
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    events: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    results: dict[str, Result] = field(default_factory=dict)
    marks: dict[str, list[Mark]] = field(default_factory=dict)
    listed: list[str] = field(default_factory=list)
    leftovers: int = 0
    """Files and folders that were swept when all was over."""


class Run:
    """Runs one schedule. It is the ground that faults work on."""

    def __init__(
        self,
        world: World,
        schedule: Schedule,
        kinds: Mapping[str, type[Fault]],
        size: Size,
        undisturbed: Mapping[str, Result],
    ) -> None:
        self.world = world
        self.caller = Caller(world.stack.address, world.stack.key)
        self._schedule = schedule
        self._kinds = kinds
        self._size = size
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self.evidence = Evidence(world, self.caller, schedule, time.time() - time.monotonic(), undisturbed)
        """As much of it as there is by now."""
        self._started = time.monotonic()
        # A seed may be run several times on one stack.
        number = 1 + len(list(world.folder.glob(f"fences-{schedule.seed}-*")))
        self._label = f"{schedule.seed}-{number}"
        self._fences = world.folder / f"fences-{self._label}"

    def to_the_end(self) -> Evidence:
        """Do all that is planned, heal it, wait for every job to end, and gather what there is to see."""
        self._fences.mkdir()
        for number, submission in enumerate(self._schedule.submissions):
            self._at(submission.at, partial(self._submit, submission, number))
        for planned in self._schedule.faults:
            fault = self._kinds[planned.kind](planned)
            self._at(planned.at, partial(self._inject, fault))
        while self._agenda:
            self._tick()
        self.world.open_lines()
        deadline = time.monotonic() + END_SECONDS
        while self._left() and time.monotonic() < deadline:
            self._look_for_the_fallen()
            time.sleep(TICK_SECONDS * 4)
        self._wait_until_whole()
        self._gather()
        return self.evidence

    # The ground

    def unended(self) -> Sequence[str]:
        """Ids of the jobs that have not ended; all of them while the API is away."""
        answer = self.caller.ask("GET", "/v1/jobs", params={"label.run": self._label, "limit": 200})
        ended = {job["id"] for job in answer.json()["data"] if job["status"] in FINAL} if answer is not None else set()
        return [job_id for job_id in self.evidence.submitted if job_id not in ended]

    def complain(self, violation: str) -> None:
        """Keep what no fault explains."""
        self.evidence.complaints.append(f"{self._now():.2f} s: {violation}")

    # Parts of the above

    def _now(self) -> float:
        return time.monotonic() - self._started

    def _at(self, at: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (at, next(self._order), action))

    def _tick(self) -> None:
        while self._agenda and self._agenda[0][0] <= self._now():
            _, _, action = heapq.heappop(self._agenda)
            action()
        self._look_for_the_fallen()
        if self._agenda:
            time.sleep(min(TICK_SECONDS, max(0.0, self._agenda[0][0] - self._now())))

    def _submit(self, submission: Submission, number: int) -> None:
        """Submit a job until it is taken, always under the same key: it is made once, however often it is asked for."""
        fence = self._fences / str(number)
        spec = {
            "name": f"{submission.model} of {self._label}",
            "labels": {"run": self._label},
            "limits": {"max_attempts": ATTEMPTS_MAX},
            "config": config_of(submission.model, self._size, step_seconds=self._size.step_seconds, fence=fence),
        }
        key = {"Idempotency-Key": f"{self._label}-{number}"}
        answer = self.caller.ask("POST", "/v1/jobs", json=spec, headers=key)
        if answer is None:
            self._at(self._now() + RETRY_SECONDS, partial(self._submit, submission, number))
        elif answer.status_code == 201:
            job_id = str(answer.json()["id"])
            self.evidence.submitted[job_id] = submission.model
            fence.with_suffix(".job").write_text(job_id)
        else:
            self.complain(f"a job was answered {answer.status_code}: {answer.text[:500]}")

    def _inject(self, fault: Fault) -> None:
        happened = Happened(fault, time.monotonic())
        self.evidence.happened.append(happened)
        try:
            happened.hit = fault.inject(self)
        except NotNow as why:
            happened.skipped = str(why)
            return
        happened.at = happened.hit.at
        self._at(self._now() + fault.planned.seconds, partial(self._heal, happened))

    def _heal(self, happened: Happened) -> None:
        assert happened.hit is not None
        try:
            again = happened.fault.heal(self, happened.hit)
        except NotNow as why:
            happened.skipped, happened.hit = str(why), None
            return
        if again is not None:
            self._at(self._now() + again, partial(self._heal, happened))
        else:
            happened.healed_at = time.monotonic()

    def _look_for_the_fallen(self) -> None:
        for name, code in self.world.fell().items():
            self.complain(f"{name} ended by itself with {code}")
            self.world.start(name)

    def _left(self) -> bool:
        ended = {
            job["id"] for job in self.caller.all("/v1/jobs", **{"label.run": self._label}) if job["status"] in FINAL
        }
        return any(job_id not in ended for job_id in self.evidence.submitted)

    def _wait_until_whole(self) -> None:
        """Every worker is back, so that the next run finds the stack as this one did."""
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            workers = self.caller.get("/v1/workers", limit=200)["data"]
            if {worker["name"] for worker in workers if worker["status"] == "online"} == set(self.world.workers):
                return
            self._look_for_the_fallen()
            time.sleep(TICK_SECONDS * 4)
        self.complain(f"after {READY_SECONDS:g} s not every worker is online: {workers}")

    def _gather(self) -> None:
        evidence = self.evidence
        evidence.listed = [job["id"] for job in self.caller.all("/v1/jobs", **{"label.run": self._label})]
        fences = {path.read_text(): path.with_suffix("") for path in self._fences.glob("*.job")}
        for job_id in evidence.submitted:
            evidence.jobs[job_id] = self.caller.get(f"/v1/jobs/{job_id}")
            evidence.events[job_id] = self.caller.all(f"/v1/jobs/{job_id}/events")
            evidence.marks[job_id] = read_marks(fences[job_id])
            if evidence.jobs[job_id]["status"] in FINAL:
                try:
                    evidence.results[job_id] = result_of(self.caller, job_id)
                except AssertionError as error:
                    self.complain(str(error))
        evidence.complaints += self.caller.oddities
        evidence.leftovers = self.world.let_a_day_pass()
