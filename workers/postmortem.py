"""Post-mortem: what a dead supervisor left unshipped of an attempt that is over goes to where it belongs.

The job may be in another attempt's hands by now, or have ended: nothing newer is touched. A metric that has a value
keeps it, for a later attempt wrote it; the job's own metrics, phase and progress stay, and no checkpoint is published.
"""

import structlog
from sqlalchemy.exc import SQLAlchemyError

from core.database import Database, is_outage
from core.epilogue import Epilogue
from core.jobs import Jobs
from core.metrics import Metrics
from core.settings import Settings
from workers.rank_logs import RankLogs, Ranks
from workers.records import Batch, read_spool
from workers.rundir import RunDir

log = structlog.get_logger()


class PostMortem:
    """Ships the rest of one attempt that is over: metrics, events and log. Each record counts once, whoever does it."""

    def __init__(self, database: Database, config: Settings, job_id: str, attempt: int, run: RunDir) -> None:
        self._database = database
        self._config = config
        self._job_id = job_id
        self._attempt = attempt
        self._run = run
        self._epilogue = Epilogue(database)
        self._metrics = Metrics(database)
        self._log = log.bind(job_id=job_id, attempt=attempt)

    def ship(self) -> None:
        """Ship all that is left, a limited piece in each transaction.

        Nothing where the job was deleted or the attempt is still under way. Raises `SQLAlchemyError` when the database
        is away and `OSError` when the directory cannot be read: then it is to be tried again later.
        """
        offset = self._epilogue.offset(self._job_id, self._attempt)
        if offset is None:
            return
        if self._run.node_rank == 0:  # what counts is in the first machine's
            self._ship_spool(offset)
        self._ship_log()

    def _ship_spool(self, offset: int) -> None:
        more = True
        while more:
            batch = Batch(offset)
            spool = read_spool(self._run.spool, offset, self._config.spool_line_max_bytes)
            for line in spool.lines:
                batch.add(line)
                if batch.point_count >= self._config.ship_batch_points:
                    if not self._commit(batch, offset):
                        return
                    offset, batch = batch.offset, Batch(batch.offset)
            if not self._commit(batch, offset):
                return
            more, offset = spool.more, batch.offset

    def _commit(self, batch: Batch, offset: int) -> bool:
        """Write what the spool says from byte `offset` to the batch's; False: somebody else has, or nobody may."""
        if batch.offset == offset:
            return True
        try:
            return self._write(batch, offset)
        except SQLAlchemyError as error:
            if is_outage(error):
                raise
            self._log.exception("spool_records_refused", points=batch.point_count, events=len(batch.happened))
            return self._write(Batch(batch.offset), offset)

    def _write(self, batch: Batch, offset: int) -> bool:
        span = (offset, batch.offset)
        with self._database.write() as connection:
            if not self._epilogue.note(connection, self._job_id, self._attempt, batch.happened, spool_span=span):
                return False
            most = self._config.metric_names_max_count
            self._metrics.add(connection, self._job_id, batch.logged, most, replace=False)
        self._log.info("shipped_after_the_end", points=batch.point_count, events=len(batch.happened))
        return True

    def _ship_log(self) -> None:
        job = Jobs(self._database).look_up(self._job_id)
        if job is None:
            return
        first = self._run.node_rank * job.devices
        ranks = Ranks(first, job.devices, job.nodes * job.devices)
        limit = self._config.log_max_bytes
        logs = RankLogs(self._database, self._job_id, self._attempt, self._run, ranks, limit, shipped=True)
        while logs.ship(lambda connection: self._epilogue.note(connection, self._job_id, self._attempt)):
            pass
