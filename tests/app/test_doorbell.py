import time
from pathlib import Path

import redis

from app.doorbell import Doorbell
from core.bell import queue_of
from core.settings import Settings
from embedded.home import free_port
from tests.app.parts import CONFIG, running_api
from tests.waiting import wait_until


def rings(broker_url: str, accelerator: str) -> int:
    with redis.Redis.from_url(broker_url) as client:
        return int(client.llen(queue_of(accelerator)))


def test_a_submission_rings_on_the_queue_of_its_accelerator_and_a_replay_does_not(home: Path, broker_url: str) -> None:
    with running_api(home, f"sqlite:///{home / 'l.db'}", broker_url=broker_url, broker_timeout_seconds=5.0) as api:
        api.worker()
        headers = {"Idempotency-Key": "k"}
        for _ in range(2):
            api.http.post("/v1/jobs", json={"config": CONFIG}, headers=headers)
        api.submit({**CONFIG, "trainer": {"accelerator": "gpu"}})
        wait_until(lambda: rings(broker_url, "gpu") == 1, what="the gpu queue rang")
        assert rings(broker_url, "cpu") == 1


def test_a_job_that_goes_back_to_the_queue_rings_and_one_whose_pause_is_taken_back_does_not(
    home: Path, broker_url: str
) -> None:
    with running_api(home, f"sqlite:///{home / 'l.db'}", broker_url=broker_url, broker_timeout_seconds=5.0) as api:
        worker_id = api.worker()
        paused = api.submit()["id"]
        for action in ("pause", "resume"):
            assert api.http.post(f"/v1/jobs/{paused}/{action}").status_code == 202
        wait_until(lambda: rings(broker_url, "cpu") == 2, what="submission and resumption rang")
        running = api.claim(worker_id).job.id
        for action in ("pause", "resume"):
            assert api.http.post(f"/v1/jobs/{running}/{action}").status_code == 202
        api.submit()
        wait_until(lambda: rings(broker_url, "cpu") == 3, what="the next submission rang")


def test_a_broker_that_is_away_neither_fails_nor_delays_a_submission(home: Path) -> None:
    away = f"redis://127.0.0.1:{free_port('127.0.0.1')}/0"
    with running_api(home, f"sqlite:///{home / 'l.db'}", broker_url=away, broker_timeout_seconds=30.0) as api:
        api.worker()
        began = time.monotonic()
        for _ in range(5):
            api.submit()
        assert time.monotonic() - began < 5


def test_rings_that_nobody_takes_are_dropped_instead_of_kept(home: Path) -> None:
    bell = Doorbell(Settings(home=home))
    for number in range(5000):
        bell.ring(f"job_{number}", "cpu")  # not started: nobody takes them


def test_a_broker_that_comes_back_is_rung_again(home: Path, broker_url: str) -> None:
    bell = Doorbell(Settings(home=home, broker_url=broker_url, broker_timeout_seconds=5.0))
    bell.start()
    with redis.Redis.from_url(broker_url) as client:
        bell.ring("job_1", "cpu")
        wait_until(lambda: rings(broker_url, "cpu") == 1, what="it rang")
        client.client_kill_filter(_type="normal", skipme=True)
        bell.ring("job_2", "cpu")
        bell.ring("job_3", "cpu")
        wait_until(lambda: rings(broker_url, "cpu") >= 2, what="it rang again")
    bell.stop()
