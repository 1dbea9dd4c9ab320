"""Hearing of jobs that are about to be queued, so that a trainer that stands by reads the config in the meantime."""

from collections.abc import Callable
from typing import Any

import structlog
from celery import Celery, bootsteps
from kombu import Consumer, Exchange, Queue

from core.bell import COMING

log = structlog.get_logger()


def hear(app: Celery, worker: str, listener: Callable[[str, str], None]) -> None:
    """Have a worker of this name and application call `listener` with accelerator and config (JSON text) of each.

    It is called in the thread that hears everything, so it must not take long.
    """

    class Hearing(bootsteps.ConsumerStep):
        def get_consumers(self, channel: Any) -> list[Consumer]:
            """A queue of its own, of the same name each time: the broker remembers names for ever."""
            exchange = Exchange(COMING, type="fanout", durable=False)
            own = Queue(f"{COMING}.{worker}", exchange, durable=False, exclusive=True, auto_delete=True)
            return [Consumer(channel, queues=[own], on_message=_told, accept=["json"], no_ack=True)]

    def _told(message: Any) -> None:
        # Others may use this broker too, and an error would be the worker's end.
        try:
            body = message.decode()
            listener(str(body["accelerator"]), str(body["config"]))
        except Exception as error:
            log.warning("message_not_understood", error=repr(error)[:200])

    app.steps["consumer"].add(Hearing)
