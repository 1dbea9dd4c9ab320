"""What an end-to-end test says to a stack: submit, follow, read what it tells of a job."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.stack import Stack
from tests.waiting import wait_until

FINAL = ("succeeded", "failed", "cancelled")


class User:
    """A caller of the API."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.client = stack.client

    def submit(self, config: dict[str, Any] | str, **spec: Any) -> str:
        """Submit a config, or the text of a YAML file as it is; returns the job's id."""
        if isinstance(config, str):
            answer = self.client.post("/v1/jobs", content=config, headers={"Content-Type": "application/yaml"})
        else:
            answer = self.client.post("/v1/jobs", json={"config": config} | spec)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def net(self, what: str = "nothing", *, trainer: dict[str, Any] | None = None, **init_args: Any) -> dict[str, Any]:
        """A config of `misbehaving.Net`, one step long unless told otherwise."""
        flags = {"max_steps": 1, "enable_model_summary": False, "enable_checkpointing": False}
        return {
            "seed_everything": 7,
            "model": {"class_path": "misbehaving.Net", "init_args": {"what": what} | init_args},
            "trainer": flags | (trainer or {}),
        }

    def job(self, job_id: str) -> dict[str, Any]:
        answer = self.client.get(f"/v1/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def ended(self, job_id: str, deadline_seconds: float = 60.0) -> dict[str, Any]:
        """The job, once it has ended."""
        return self.until(job_id, lambda job: job["status"] in FINAL, "the job has ended", deadline_seconds)

    def until(
        self, job_id: str, condition: Callable[[dict[str, Any]], bool], what: str, deadline_seconds: float = 60.0
    ) -> dict[str, Any]:
        """The job, once the condition holds for it."""
        seen: dict[str, Any] = {}

        def holds() -> bool:
            seen.update(self.job(job_id))
            return condition(seen)

        wait_until(holds, what=f"{what} ({job_id})", deadline_seconds=deadline_seconds)
        return seen

    def events(self, job_id: str) -> list[dict[str, Any]]:
        answer = self.client.get(f"/v1/jobs/{job_id}/events", params={"limit": 200})
        assert answer.status_code == 200, answer.text
        return list(answer.json()["data"])

    def event_types(self, job_id: str) -> list[str]:
        return [event["type"] for event in self.events(job_id)]

    def until_event(self, job_id: str, event_type: str, deadline_seconds: float = 60.0) -> dict[str, Any]:
        """The first event of a type, once it is there."""
        return (
            wait_until(
                lambda: next((event for event in self.events(job_id) if event["type"] == event_type), None),
                what=f"{job_id} has an event {event_type}",
                deadline_seconds=deadline_seconds,
            )
            or {}
        )

    def log(self, job_id: str) -> str:
        return self.client.get(f"/v1/jobs/{job_id}/logs").text

    def download(self, checkpoint_id: str, to: Path) -> Path:
        with self.client.stream("GET", f"/v1/checkpoints/{checkpoint_id}/content") as answer:
            assert answer.status_code == 200
            to.write_bytes(b"".join(answer.iter_bytes()))
        return to


@pytest.fixture
def user(stack: Stack) -> User:
    """A caller of the stack."""
    return User(stack)
