"""What a trainer is told to run, from the job and from what its machine was given of it."""

from core.claims import Claim
from core.settings import Settings
from workers.resume import Brought
from workers.rundir import Order


def order_for(claim: Claim, config: Settings, threads: int, brought: Brought, address: str) -> Order:
    """The order of one machine's ranks. `threads`: the most that torch may use in each; 0: as many as by hand."""
    job = claim.job
    return Order(
        job_id=job.id,
        attempt=claim.attempt,
        config=job.config,
        devices=claim.devices,
        catalog_modules=list(config.catalog_modules),
        threads=threads,
        recovery_interval_seconds=config.recovery_interval_seconds,
        resume=brought.resume,
        start=brought.start,
        weights=brought.weights,
        seed_by_index=config.data_seeding == "index",
        saves=job.checkpoint_requests,
        subcommand=job.subcommand,
        stop_on_nan=job.stop_on_nan,
        dry_run=job.dry_run,
        logged_files_max_count=config.logged_files_max_count,
        logged_files_max_bytes=config.logged_files_max_bytes,
        data_locks=str(config.data_locks_path),
        data_wait_seconds=config.data_wait_seconds,
        nodes=job.nodes,
        node_rank=claim.node_rank,
        address=address if job.nodes > 1 else "127.0.0.1",
    )
