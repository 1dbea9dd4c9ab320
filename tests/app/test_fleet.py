from pathlib import Path

from core.fleet import Fleet
from core.tables import workers
from tests.app.parts import Api, running_api


def test_workers_tell_their_devices_and_what_runs_there(api: Api) -> None:
    claim = api.running_job()
    (worker,) = api.http.get("/v1/workers").json()["data"]
    assert (worker["name"], worker["status"], worker["versions"]) == ("box", "online", {"torch": "2.13.0"})
    assert worker["devices"] == [
        {"id": "cpu:0", "name": "CPU", "memory_bytes": 2**30, "busy": True, "job_id": claim.job.id},
        {"id": "cpu:1", "name": "CPU", "memory_bytes": 2**30, "busy": False, "job_id": None},
    ]


def test_a_worker_that_left_is_not_listed_and_a_silent_one_is_offline(api: Api) -> None:
    left, silent = api.worker(name="left"), api.worker(name="silent")
    Fleet(api.database).leave(left)
    with api.database.write() as connection:
        started = workers.c.started_at
        long_ago = connection.execute(workers.select().with_only_columns(started)).scalars().first()
        assert long_ago is not None
        connection.execute(
            workers.update().where(workers.c.id == silent).values(heartbeat_at=long_ago.replace(year=2020))
        )
    assert [(row["name"], row["status"]) for row in api.http.get("/v1/workers").json()["data"]] == [
        ("silent", "offline")
    ]


def test_workers_come_in_pages(any_api: Api) -> None:
    made = sorted((any_api.worker() for _ in range(3)), reverse=True)
    first = any_api.http.get("/v1/workers", params={"limit": 2}).json()
    rest = any_api.http.get("/v1/workers", params={"cursor": first["next_cursor"]}).json()
    assert [row["id"] for row in first["data"] + rest["data"]] == made
    assert rest["next_cursor"] is None


def test_the_queue_is_listed_in_its_order_with_why_each_waits(api: Api) -> None:
    api.worker(devices=1)
    low, high, big = (
        api.submit(priority=priority, config={**_CONFIG, "trainer": {"accelerator": "cpu", "devices": devices}})["id"]
        for priority, devices in ((0, 1), (9, 1), (0, 8))
    )
    rows = api.http.get("/v1/queue").json()["data"]
    assert [(row["id"], row["position"]) for row in rows] == [(high, 0), (low, 1), (big, 2)]
    assert [row["reason"] for row in rows] == [
        "waiting for a free device",
        "1 job(s) ahead in the queue",
        "no worker that is up has 8 device(s) of kind 'cpu'",
    ]
    first = api.http.get("/v1/queue", params={"limit": 1}).json()
    rest = api.http.get("/v1/queue", params={"cursor": first["next_cursor"]}).json()
    assert first["data"] + rest["data"] == rows
    assert rest["next_cursor"] is None


def test_a_queued_job_says_that_no_worker_is_up(home: Path) -> None:
    with running_api(home, f"sqlite:///{home / 'l.db'}") as api:
        worker_id = api.worker()
        job = api.submit()
        Fleet(api.database).leave(worker_id)
        assert api.job(job["id"])["waiting"] == {"position": 0, "reason": "no worker is up"}


def test_a_full_queue_is_429_until_there_is_room(home: Path) -> None:
    with running_api(home, f"sqlite:///{home / 'l.db'}", queued_jobs_max_count=2) as api:
        worker_id = api.worker()
        api.submit()
        api.submit()
        refused = api.http.post("/v1/jobs", json={"config": _CONFIG}, headers={"Idempotency-Key": "k"})
        assert (refused.status_code, refused.json()["code"]) == (429, "queue_full")
        assert int(refused.headers["Retry-After"]) > 0
        api.claim(worker_id)
        made = api.http.post("/v1/jobs", json={"config": _CONFIG}, headers={"Idempotency-Key": "k"})
        assert made.status_code == 201


_CONFIG = {"model": {"class_path": "models.vision.ImageClassifier"}}
