from pathlib import Path

from tests.app.parts import running_api
from tests.app.test_doorbell import rings
from tests.waiting import wait_until


def test_a_dead_worker_s_job_is_requeued_and_rung_for_without_any_worker(home: Path, broker_url: str) -> None:
    waits = {"reconcile_interval_seconds": 0.05, "retry_backoff_seconds": 0.1, "lease_seconds": 0.2}
    settings = waits | {"broker_timeout_seconds": 5.0}
    with running_api(home, f"sqlite:///{home / 'l.db'}", broker_url=broker_url, **settings) as api:
        worker_id = api.worker()
        job = api.submit()
        wait_until(lambda: rings(broker_url, "cpu") == 1, what="the submission rang")
        api.claim(worker_id, lease_seconds=0.01)
        wait_until(lambda: api.job(job["id"])["status"] == "queued", what="it is requeued")
        told = [event["type"] for event in api.http.get(f"/v1/jobs/{job['id']}/events").json()["data"]]
        assert told == ["created", "claimed", "attempt_lost", "requeued"]
        assert [attempt["outcome"] for attempt in api.job(job["id"])["attempts"]] == ["worker_lost"]
        wait_until(lambda: rings(broker_url, "cpu") == 2, what="it is rung for")
