"""Hearing of jobs that are about to be queued, so that a trainer that stands by reads the config in the meantime."""

from collections.abc import Callable
from typing import Any

from celery import Celery, bootsteps
from kombu import Consumer, Exchange, Queue

from core.bell import COMING
from core.ids import new_id


def hear(app: Celery, listener: Callable[[str, str], None]) -> None:
    """Have a worker of this application call `listener` with accelerator and config (JSON text) of each that comes.

    It is called in the thread that hears everything, so it must not take long; what it raises is the worker's end.
    """

    class Hearing(bootsteps.ConsumerStep):
        def get_consumers(self, channel: Any) -> list[Consumer]:
            """A queue of its own, which is gone with the connection."""
            exchange = Exchange(COMING, type="fanout", durable=False)
            own = Queue(new_id("evt"), exchange, durable=False, exclusive=True, auto_delete=True)
            return [Consumer(channel, queues=[own], on_message=_told, accept=["json"], no_ack=True)]

    def _told(message: Any) -> None:
        body = message.decode()
        if isinstance(body, dict) and isinstance(body.get("accelerator"), str) and isinstance(body.get("config"), str):
            listener(body["accelerator"], body["config"])

    app.steps["consumer"].add(Hearing)
