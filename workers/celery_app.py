"""The Celery application of a worker, with every option that matters said."""

from celery import Celery
from kombu.transport.redis import Channel

from core.bell import TASK
from core.settings import Settings


def make_app(config: Settings) -> Celery:
    """Celery as the doorbell needs it.

    A message says only that there is work, so it is acknowledged at receipt and has no result: Redis never redelivers
    a job that runs for days (its visibility timeout would), and the database, not the broker, knows what is queued.
    """
    # Where a connection breaks with a message not acknowledged yet, kombu puts it back through that same connection,
    # and the error ends the worker. The reconciler rings again for whatever waits.
    Channel.do_restore = False
    timeout = config.broker_timeout_seconds
    app = Celery("lightyard", broker=config.broker, set_as_current=True)
    app.conf.update(
        accept_content=["json"],
        broker_connection_max_retries=None,  # a worker outlives its broker's outages
        broker_connection_retry=True,
        broker_connection_retry_on_startup=True,
        broker_connection_timeout=timeout,
        broker_transport_options={
            "socket_connect_timeout": timeout,
            "socket_keepalive": True,
            "socket_timeout": 30,
            "health_check_interval": 15,
        },
        enable_utc=True,
        result_backend=None,
        task_acks_late=False,
        task_create_missing_queues=True,
        task_ignore_result=True,
        task_routes={TASK: {"queue": "lightyard.auto"}},
        task_serializer="json",
        task_store_errors_even_if_ignored=False,
        task_track_started=False,
        timezone="UTC",
        worker_cancel_long_running_tasks_on_connection_loss=False,  # a lost broker must not touch a training run
        worker_concurrency=config.worker_threads,
        worker_disable_prefetch=True,
        worker_enable_remote_control=True,
        worker_hijack_root_logger=False,
        worker_log_color=False,
        worker_pool="threads",
        worker_prefetch_multiplier=1,
        worker_redirect_stdouts=False,
        worker_send_task_events=False,
    )
    return app
