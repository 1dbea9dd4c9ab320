"""The doorbell: tells workers through Celery that there is work. Losing a ring costs seconds, never a job."""

import contextlib
import json
import queue
import threading
from dataclasses import dataclass
from typing import Any

import structlog

from core.bell import COMING, COMING_BYTES_MAX, TASK, queue_of
from core.job import NewJob
from core.settings import Settings

RINGS_MAX = 1000
"""Most rings that wait to be sent; what comes on top is dropped, for workers look for themselves now and then."""
EXPIRES_SECONDS = 60.0
"""A ring that no worker has heard by then says nothing any more."""
STOP_SECONDS = 2.0

log = structlog.get_logger("lightyard.api")


@dataclass(frozen=True, slots=True)
class _Ring:
    job_id: str
    accelerator: str


@dataclass(frozen=True, slots=True)
class _Steps:
    """What is heard of a job before it rings."""

    accelerator: str
    config: str


class Doorbell:
    """Sends rings from a thread of its own, so that no request waits for the broker."""

    def __init__(self, config: Settings) -> None:
        self._config = config
        self._rings: queue.Queue[_Ring | _Steps | None] = queue.Queue(RINGS_MAX)
        self._thread = threading.Thread(target=self._send_all, name="doorbell", daemon=True)
        self._stopping = threading.Event()
        self._silent = False

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def ring(self, job_id: str, accelerator: str) -> None:
        """Say that a job is in the queue. Call it after the commit; it neither waits nor fails."""
        try:
            self._rings.put_nowait(_Ring(job_id, accelerator))
        except queue.Full:
            log.warning("ring_dropped", job_id=job_id)

    def foretell(self, new: NewJob) -> None:
        """Say that a job will probably be in the queue soon, so that whoever waits for it can read its config.

        Call it before the transaction. Where jobs come fast nobody waits for them, and it says nothing.
        """
        if new.devices == new.nodes == 1 and self._rings.empty():
            config = json.dumps(new.config)
            if len(config) <= COMING_BYTES_MAX:
                with contextlib.suppress(queue.Full):
                    self._rings.put_nowait(_Steps(new.accelerator, config))

    def stop(self) -> None:
        """Send what is waiting, for two seconds at most, and end."""
        self._stopping.set()
        try:
            self._rings.put(None, timeout=STOP_SECONDS)
        except queue.Full:
            return
        self._thread.join(STOP_SECONDS)

    def _send_all(self) -> None:
        # Celery takes a quarter of a second to import; the first request need not wait for it.
        celery = _producer(self._config)
        while (ring := self._rings.get()) is not None:
            if isinstance(ring, _Ring):
                self._send(celery, ring)
            elif not self._silent:
                _tell(celery, ring)
            if self._stopping.is_set() and self._silent:
                return
        celery.close()

    def _send(self, celery: Any, ring: _Ring) -> None:
        try:
            celery.send_task(
                TASK,
                args=[ring.job_id],
                queue=queue_of(ring.accelerator),
                expires=EXPIRES_SECONDS,
                ignore_result=True,
                retry=False,
            )
        except Exception as error:  # what a transport raises when its broker is away is its own affair
            if not self._silent:
                log.warning("broker_unreachable", error=str(error) or type(error).__name__, job_id=ring.job_id)
            self._silent = True
        else:
            if self._silent:
                log.info("broker_reachable_again")
            self._silent = False


def _tell(celery: Any, steps: _Steps) -> None:
    from kombu import Exchange

    exchange = Exchange(COMING, type="fanout", durable=False, delivery_mode="transient")
    told = {"accelerator": steps.accelerator, "config": steps.config}
    # As below; the ring will follow, and say so.
    with contextlib.suppress(Exception), celery.producer_or_acquire() as producer:
        producer.publish(told, exchange=exchange, declare=[exchange], serializer="json", retry=False)


def _producer(config: Settings) -> Any:
    from celery import Celery

    seconds = config.broker_timeout_seconds
    celery = Celery("lightyard-api", broker=config.broker, set_as_current=False)
    celery.conf.update(
        broker_connection_timeout=seconds,
        broker_transport_options={
            "socket_timeout": seconds,
            "socket_connect_timeout": seconds,
            "socket_keepalive": True,
            "max_retries": 0,
        },
        broker_pool_limit=1,
        task_ignore_result=True,
        task_create_missing_queues=True,
    )
    return celery
