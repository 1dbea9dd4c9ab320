"""What callers ask of jobs while parts fail: to stop, to pause and go on, to save. It must hold as well."""

import time

import httpx

from tests.faults.faults import Fault, Ground, Hit, NotNow
from tests.faults.schedule import Draw
from tests.faults.undisturbed import FINAL

LOOK_SECONDS = 0.2
PAUSED_BY_SECONDS = 20.0
ASKED_BY_SECONDS = 30.0


class _Request(Fault):
    """Asks until there is an answer, for the API may be away."""

    action: str

    def inject(self, ground: Ground) -> Hit:
        job_id = self.pick(ground.unended(), "no job that has not ended")
        hit = Hit(job_id, frozenset({job_id}), state={"by": time.monotonic() + ASKED_BY_SECONDS})
        self.ask(ground, hit, self.action)
        return hit

    def heal(self, ground: Ground, hit: Hit) -> float | None:
        if "answer" in hit.state or self.ask(ground, hit, self.action):
            return None
        return self.again(ground, hit)

    def ask(self, ground: Ground, hit: Hit, action: str) -> bool:
        """Ask once; whether there was an answer. Raises `NotNow` where this version cannot do it."""
        answer = ground.caller.ask("POST", f"/v1/jobs/{hit.what}/{action}")
        if answer is None:
            return False
        if answer.status_code == httpx.codes.UNPROCESSABLE_ENTITY and answer.json().get("code") == "not_yet_supported":
            raise NotNow(answer.json()["detail"])
        if answer.status_code not in (httpx.codes.ACCEPTED, httpx.codes.CONFLICT):
            ground.complain(f"{action} of {hit.what} was answered {answer.status_code}: {answer.text[:300]}")
        hit.state["answer"] = answer.status_code
        return True

    def again(self, ground: Ground, hit: Hit) -> float | None:
        """When to ask again."""
        if time.monotonic() < hit.state["by"]:
            return LOOK_SECONDS
        ground.complain(f"{self.action} of {hit.what} was not answered for {ASKED_BY_SECONDS:g} s")
        return None


class Cancel(_Request):
    """A job is cancelled."""

    kind = "cancel"
    draw = Draw(0.7)
    costs = True
    action = "cancel"


class Pause(_Request):
    """A job is paused, and resumed once it is."""

    kind = "pause"
    draw = Draw(1.0, (0.2, 2.0))
    costs = True
    action = "pause"

    def heal(self, ground: Ground, hit: Hit) -> float | None:
        if "answer" not in hit.state and not self.ask(ground, hit, "pause"):
            return self.again(ground, hit)
        if hit.state["answer"] == httpx.codes.CONFLICT and "paused" not in hit.state:
            return None  # it had ended
        if "paused" not in hit.state:
            return self._until_paused(ground, hit)
        return None if self.ask(ground, hit, "resume") else LOOK_SECONDS

    def _until_paused(self, ground: Ground, hit: Hit) -> float | None:
        since = hit.state.setdefault("since", time.monotonic())
        answer = ground.caller.ask("GET", f"/v1/jobs/{hit.what}")
        status = answer.json()["status"] if answer is not None else None
        if status in FINAL:
            return None
        if status == "paused":
            hit.state["paused"] = True
            return self.planned.seconds
        if time.monotonic() - since > PAUSED_BY_SECONDS:
            ground.complain(f"{hit.what} is {status}, {PAUSED_BY_SECONDS:g} s after it was asked to pause")
            hit.state["paused"] = True
        return LOOK_SECONDS


class SaveNow(_Request):
    """A checkpoint is asked for."""

    kind = "save_now"
    draw = Draw(0.5)
    action = "checkpoints"


KINDS = [Cancel, Pause, SaveNow]
