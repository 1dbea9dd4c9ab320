"""What each API process does beside answering: it gives back the jobs of dead workers, and clears away old rows."""

import asyncio
import time
from functools import partial

import anyio
import structlog
from anyio import CapacityLimiter
from sqlalchemy.exc import SQLAlchemyError

from app.dry_run import forget_old
from app.service import Service
from core.attempts import Retry
from core.reaper import Reaper
from core.states import Status

CLEARING_SECONDS = 300.0
"""How often old idempotency keys, workers long gone and old dry runs are forgotten."""
WORKER_KEEP_SECONDS = 7 * 86400.0

log = structlog.get_logger("lightyard.api")


async def upkeep(service: Service) -> None:
    """Run for as long as the process does. Workers do the same; whoever comes first does it."""
    config = service.config
    retry = Retry(config.retry_backoff_seconds, config.retry_backoff_max_seconds)
    reaper = Reaper(service.attempts, retry)
    limiter = CapacityLimiter(1)  # its own thread, so that no flood of requests delays it
    cleared_at = time.monotonic()
    while True:
        await asyncio.sleep(config.reconcile_interval_seconds)
        try:
            await anyio.to_thread.run_sync(partial(_expire, service, reaper), limiter=limiter)
            if time.monotonic() - cleared_at > CLEARING_SECONDS:
                cleared_at = time.monotonic()
                await anyio.to_thread.run_sync(_clear, service, limiter=limiter)
        except SQLAlchemyError as error:
            log.warning("upkeep_lost_the_database", error=str(error).partition("\n")[0])
        except Exception:
            log.exception("upkeep_failed")


def _expire(service: Service, reaper: Reaper) -> None:
    """Requeue what dead workers held, and ring for it. When a backoff is over, workers look by themselves."""
    for job_id, status in reaper.look():
        log.warning("attempt_lost", job_id=job_id, status=str(status))
        job = service.jobs.look_up(job_id) if status is Status.QUEUED else None
        if job is not None:
            service.doorbell.ring(job_id, job.accelerator)


def _clear(service: Service) -> None:
    service.idempotency.collect()
    service.fleet.collect(WORKER_KEEP_SECONDS)
    forget_old(service)
