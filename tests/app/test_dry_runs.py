import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import update

from app.dry_run import forget_old
from core.attempts import Attempts
from core.claims import Claim
from core.preemption import Preemption
from core.states import Status
from core.tables import jobs
from tests.app.parts import CONFIG, Api

PHASES = [
    {"phase": "training", "batches": 1, "seconds": 0.5, "metrics": {"loss": 2.0}},
    {"phase": "validating", "batches": 1, "seconds": None, "metrics": {}},
]


def dry_run(api: Api, wait: float = 0, **headers: str) -> httpx.Response:
    return api.http.post(
        "/v1/jobs", params={"dry_run": True, "wait": wait}, json={"config": CONFIG}, headers=headers, timeout=30
    )


def tell(api: Api, claim: Claim, data: dict[str, Any]) -> None:
    with api.database.write() as connection:
        Attempts(api.database).note(connection, claim.job.id, claim.token, [("tried", datetime.now(UTC), data)])


def test_a_dry_run_that_no_worker_took_in_time_says_what_it_waits_for_and_where_to_ask(api: Api) -> None:
    api.worker()
    answer = dry_run(api)
    told = answer.json()
    assert (answer.status_code, told["status"], told["ok"]) == (202, "queued", None)
    assert told["waiting"] == {"position": 0, "reason": "waiting for a free device"}
    assert answer.headers["Retry-After"] == "1"
    assert answer.headers["Location"] == f"/v1/jobs/{told['job_id']}/dry_run"
    again = api.http.get(answer.headers["Location"])
    assert (again.status_code, again.json()) == (202, told)


def test_what_was_found_is_answered_as_soon_as_the_dry_run_ends(api: Api) -> None:
    worker_id = api.worker()
    answers: list[httpx.Response] = []
    asked = threading.Thread(target=lambda: answers.append(dry_run(api, wait=20, **{"Idempotency-Key": "k"})))
    asked.start()
    claim = None
    while claim is None and asked.is_alive():
        found = api.http.get("/v1/jobs", params={"dry_run": True}).json()["data"]
        claim = api.claim(worker_id) if found else None
    assert claim is not None
    tell(api, claim, {"phases": [*PHASES, {"phase": "odd"}, 7], "warnings": ["EarlyStopping monitors 'x'"]})
    api.log(claim, 0, b"Seed set to 42\n")
    reason = {"code": "user_error", "message": "RuntimeError: shapes", "traceback": "Traceback …"}
    api.finish(claim, Status.FAILED, reason)
    asked.join()
    told = answers[0].json()
    assert (answers[0].status_code, told["ok"], told["status"]) == (200, False, "failed")
    assert [(one["phase"], one["ok"]) for one in told["phases"]] == [("training", True), ("validating", False)]
    assert told["phases"][0]["metrics"] == {"loss": 2.0}
    assert told["reason"] == reason | {"data": None}
    assert told["warnings"] == ["EarlyStopping monitors 'x'"]
    assert told["log"] == "Seed set to 42\n"
    assert told["seconds"] >= 0
    replayed = dry_run(api, wait=5, **{"Idempotency-Key": "k"})
    assert (replayed.status_code, replayed.json()) == (200, told)
    assert replayed.headers["Idempotent-Replayed"] == "true"


def test_a_dry_run_goes_ahead_of_the_queue_within_limits_of_its_own_and_is_listed_apart(api: Api) -> None:
    worker_id = api.worker()
    first = api.submit(priority=100)
    told = dry_run(api).json()
    claim = api.claim(worker_id)
    assert claim.job.id == told["job_id"]
    assert claim.job.dry_run
    assert (claim.job.max_seconds, claim.job.max_attempts) == (300.0, 2)
    assert [one["id"] for one in api.http.get("/v1/jobs").json()["data"]] == [first["id"]]
    listed = api.http.get("/v1/jobs", params={"dry_run": True}).json()["data"]
    assert [(one["id"], one["dry_run"]) for one in listed] == [(told["job_id"], True)]


def test_a_dry_run_stops_no_running_job(api: Api) -> None:
    worker_id = api.worker(devices=1)
    api.submit()
    api.claim(worker_id)
    dry_run(api)
    assert Preemption(api.database).make_room(worker_id, 0.0, lambda _: True) == []
    api.submit(priority=1)
    assert Preemption(api.database).make_room(worker_id, 0.0, lambda _: True) != []


def test_what_is_wrong_with_a_job_is_told_without_a_dry_run(any_api: Api) -> None:
    any_api.worker()
    answer = any_api.http.post("/v1/jobs", params={"dry_run": True}, json={"config": {"model": {"class_path": "x"}}})
    assert answer.status_code == 422
    assert any_api.http.get("/v1/jobs", params={"dry_run": True}).json()["data"] == []


def test_a_job_is_no_dry_run_and_a_dry_run_is_not_retried(any_api: Api) -> None:
    worker_id = any_api.worker()
    job = any_api.submit()
    answer = any_api.http.get(f"/v1/jobs/{job['id']}/dry_run")
    assert (answer.status_code, answer.json()["code"]) == (404, "no_dry_run")
    told = dry_run(any_api).json()
    any_api.finish(any_api.claim(worker_id))
    answer = any_api.http.post(f"/v1/jobs/{told['job_id']}/retry")
    assert (answer.status_code, answer.json()["code"]) == (409, "is_dry_run")


def test_a_dry_run_that_ended_long_ago_is_deleted_with_its_files(any_api: Api, tmp_path: Path) -> None:
    worker_id = any_api.worker()
    kept, old = dry_run(any_api).json()["job_id"], dry_run(any_api).json()["job_id"]
    for _ in range(2):
        claim = any_api.claim(worker_id)
        any_api.artifact(claim, "a.txt", b"text", tmp_path)
        any_api.finish(claim)
    with any_api.database.write() as connection:
        connection.execute(update(jobs).where(jobs.c.id == old).values(finished_at=datetime(2020, 1, 1, tzinfo=UTC)))
    service = any_api.running.config.app.state.service  # type: ignore[union-attr]  # the app itself, not its name
    forget_old(service)
    left = any_api.http.get("/v1/jobs", params={"dry_run": True}).json()["data"]
    assert [one["id"] for one in left] == [kept]
    folders = {path.name for path in (service.store.root / "jobs").iterdir()}
    assert kept in folders
    assert old not in folders
