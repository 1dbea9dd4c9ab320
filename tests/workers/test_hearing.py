import json
from pathlib import Path

import redis
from celery.contrib.testing.worker import start_worker

from app.doorbell import Doorbell
from core.bell import COMING, COMING_BYTES_MAX
from core.job import NewJob
from core.settings import Settings
from tests.waiting import wait_until
from workers.celery_app import make_app
from workers.hearing import hear


def new(config: dict[str, object], devices: int = 1) -> NewJob:
    return NewJob(config, [], "cpu", devices, max_seconds=1.0, max_attempts=1)


def test_a_worker_hears_of_the_jobs_that_it_could_be_given(home: Path, broker_url: str) -> None:
    config = Settings(home=home, broker_url=broker_url, broker_timeout_seconds=5.0)
    heard: list[tuple[str, dict[str, object]]] = []
    celery = make_app(config)
    hear(celery, "box", lambda accelerator, text: heard.append((accelerator, json.loads(text))))
    bell = Doorbell(config)

    def called() -> bool:
        bell.foretell(new({"call": 1}))
        return ("cpu", {"call": 1}) in heard

    odd = {"lr": 1e-5, "name": "größe", "__type__": "bytes", "n": 2**70}
    with start_worker(celery, pool="threads", perform_ping_check=False, loglevel="ERROR"):
        bell.foretell(new({"before": "anybody sends"}))
        bell.foretell(new({"behind": "another"}))
        bell.start()
        wait_until(called, what="it listens")
        with celery.producer_or_acquire() as producer:
            for strange in ("no object", {"accelerator": "cpu"}, {"accelerator": "cpu", "config": "{"}):
                producer.publish(strange, exchange=COMING, serializer="json")
        bell.foretell(new({"is": "x" * COMING_BYTES_MAX}))
        bell.foretell(new({"for": "several devices"}, devices=2))
        wait_until(lambda: (bell.foretell(new(odd)), ("cpu", odd) in heard)[1], what="what is odd was heard")
        assert all(told in ({"before": "anybody sends"}, {"call": 1}, odd) for _, told in heard), "but for those"
        heard.clear()
        with redis.Redis.from_url(broker_url) as client:
            for kind in ("normal", "pubsub"):
                client.client_kill_filter(_type=kind, skipme=True)
        wait_until(called, what="it listens again")
        bell.stop()
