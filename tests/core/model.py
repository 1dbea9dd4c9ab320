"""A job as it should behave, in plain Python: what the stores are held against."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from core.states import ReasonCode, Status

FINAL = (Status.SUCCEEDED, Status.FAILED, Status.CANCELLED)


@dataclass
class ModelJob:
    """One job. Each method is what a verb of the stores does to it; it is called only where the verb is allowed."""

    id: str
    project: str
    priority: int
    devices: int
    max_attempts: int
    status: Status = Status.QUEUED
    attempt: int = 0
    spent: int = 0
    token: str | None = None
    worker: str | None = None
    held: list[str] = field(default_factory=list)
    outcomes: list[str | None] = field(default_factory=list)
    cancel: bool = False
    force: bool = False
    pause: bool = False
    preempt: bool = False
    save: bool = False
    saves: int = 0
    backing_off: bool = False
    recoveries: list[str] = field(default_factory=list)
    stops: list[str] = field(default_factory=list)
    last: str | None = None
    events: list[str] = field(default_factory=lambda: ["created"])

    @property
    def is_final(self) -> bool:
        return self.status in FINAL

    def refuses(self, action: str) -> bool:
        """Whether a caller's action is a conflict."""
        if action == "cancel":
            return self.status in (Status.SUCCEEDED, Status.FAILED)
        if action == "request_checkpoint":
            return self.status is not Status.RUNNING
        return self.is_final or self.cancel

    def ask(self, action: str) -> bool:
        """Do what a caller asks; whether it changed anything."""
        before = len(self.events)
        if action == "cancel":
            self._cancel(force=False)
        elif action == "cancel_forced":
            self._cancel(force=True)
        elif action == "request_checkpoint" and not self.save:
            self.save, self.saves = True, self.saves + 1
            self.events.append("checkpoint_requested")
        elif action == "pause" and self.status is Status.QUEUED:
            self._go(Status.PAUSED, "paused")
        elif action == "pause" and self.status is Status.RUNNING and not self.pause:
            self.pause = True
            self.events.append("pause_requested")
        elif action == "resume" and self.status is Status.PAUSED:
            self._go(Status.QUEUED, "unpaused")
        elif action == "resume" and self.pause:
            self.pause = False
            self.events.append("pause_withdrawn")
        return len(self.events) > before

    def claim(self, token: str, worker: str, devices: Sequence[str]) -> None:
        self.status, self.token, self.worker, self.held = Status.RUNNING, token, worker, list(devices)
        self.attempt, self.spent = self.attempt + 1, self.spent + 1
        self.outcomes.append(None)
        self.events.append("claimed")

    def stop(self, *, saved: bool) -> None:
        if saved:
            self.events.append("stopped")
        if self.cancel:
            self._end_attempt("cancelled")
            self._end_cancelled()
        elif self.pause:
            self._end_attempt("paused")
            self.spent -= 1
            self._go(Status.PAUSED, "paused")
        else:
            self.lose(ReasonCode.PREEMPTED, backs_off=False)

    def lose(self, code: ReasonCode, *, backs_off: bool) -> None:
        preempted = code is ReasonCode.PREEMPTED
        self._end_attempt(str(code))
        self.spent -= int(preempted)
        self.events.append("attempt_lost")
        if self.cancel:
            self._end_cancelled()
        elif self.spent >= self.max_attempts and not preempted:
            self._go(Status.FAILED, "failed")
        elif self.pause:
            self._go(Status.PAUSED, "paused")
        else:
            self._go(Status.QUEUED, "requeued")
            self.backing_off = backs_off and not preempted

    def finish(self, status: Status) -> None:
        self._end_attempt(str(status))
        if status is Status.SUCCEEDED:
            self._drop_recoveries()
        self._go(status, str(status))

    def publish(self, checkpoint_id: str, kind: str, *, is_last: bool) -> None:
        if kind == "recovery":
            self.recoveries.append(checkpoint_id)
        if kind == "requested":
            self.save = False
        if is_last:
            self.last = checkpoint_id
        self.events.append("checkpoint_saved")

    def _cancel(self, *, force: bool) -> None:
        if self.status in (Status.QUEUED, Status.PAUSED):
            self._end_cancelled()
        elif self.status is Status.RUNNING and (not self.cancel or (force and not self.force)):
            self.cancel, self.force = True, force or self.force
            self.events.append("cancel_requested")

    def _end_attempt(self, outcome: str) -> None:
        self.outcomes[-1] = outcome
        self.token, self.worker, self.held, self.preempt = None, None, [], False

    def _end_cancelled(self) -> None:
        if self.recoveries:
            self.last = max(self.recoveries)
            self.recoveries.remove(self.last)
            self.stops.append(self.last)
        self._drop_recoveries()
        self._go(Status.CANCELLED, "cancelled")

    def _drop_recoveries(self) -> None:
        if self.last in self.recoveries:
            self.last = None
        self.recoveries.clear()

    def _go(self, status: Status, event: str) -> None:
        self.status = status
        self.pause = self.save = self.backing_off = False
        self.events.append(event)
