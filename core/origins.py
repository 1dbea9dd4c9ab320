"""Origins: the checkpoints from which jobs start, found by how callers name them, and kept as long as needed."""

from collections.abc import Sequence

from sqlalchemy import Connection, or_, select

from core.database import Database
from core.errors import Conflict, NotFound
from core.references import BEST, OF_PARENT, Reference
from core.states import FINAL
from core.tables import checkpoints, jobs

NAMED_MAX = 10
"""Most jobs that a refusal names."""

_FINAL = [str(status) for status in FINAL]


class Origins:
    """Finds the checkpoints that callers name."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, project_id: str, reference: Reference, parent_id: str | None = None) -> str:
        """The id of the checkpoint. Raises `NotFound`, for another project's too, and for what a job has not saved."""
        job_id = parent_id if reference.is_of_parent else reference.job_id
        with self._database.read() as connection:
            if reference.which in OF_PARENT:
                return _pointed(connection, project_id, job_id or "", reference.which)
            query = select(checkpoints.c.job_id).join(jobs, jobs.c.id == checkpoints.c.job_id)
            query = query.where(checkpoints.c.id == reference.which, jobs.c.project_id == project_id)
            found = connection.execute(query).scalar_one_or_none()
        if found is None or job_id not in (None, found):
            of = f" of {job_id}" if job_id else ""
            raise NotFound(f"There is no checkpoint {reference.which!r}{of} here.", code="checkpoint_not_found")
        return reference.which


def hold(connection: Connection, checkpoint_ids: Sequence[str]) -> None:
    """See that checkpoints are there until the transaction ends, which makes a job that needs them.

    Raises `Conflict` for one that was deleted since it was found.
    """
    query = select(checkpoints.c.id).where(checkpoints.c.id.in_(checkpoint_ids)).order_by(checkpoints.c.id)
    there = set(connection.execute(query.with_for_update(read=True)).scalars())
    for gone in sorted(set(checkpoint_ids) - there):
        raise Conflict(f"{gone} was deleted just now: name another checkpoint.", code="checkpoint_gone")


def needed(connection: Connection, checkpoint_ids: Sequence[str]) -> dict[str, list[str]]:
    """Those of the checkpoints from which a job that has not ended is to start, each with the ids of such jobs.

    Until the transaction ends, no further job can be made that needs one of them.
    """
    if not checkpoint_ids:
        return {}
    # Locked before it is asked who needs them: a job that is just being made has them locked until it is there.
    locked = select(checkpoints.c.id).where(checkpoints.c.id.in_(checkpoint_ids)).order_by(checkpoints.c.id)
    connection.execute(locked.with_for_update()).all()
    columns = (jobs.c.start_checkpoint_id, jobs.c.weights_checkpoint_id)
    query = select(jobs.c.id, *columns).where(
        or_(*(column.in_(checkpoint_ids) for column in columns)), jobs.c.status.not_in(_FINAL)
    )
    found: dict[str, list[str]] = {}
    for row in connection.execute(query.order_by(jobs.c.id)):
        for checkpoint_id in {row.start_checkpoint_id, row.weights_checkpoint_id} & set(checkpoint_ids):
            found.setdefault(checkpoint_id, []).append(row.id)
    return found


def in_use(checkpoints_needed: dict[str, list[str]], what: str) -> Conflict:
    """The refusal to delete what jobs are to start from."""
    job_ids = sorted({job_id for job_ids in checkpoints_needed.values() for job_id in job_ids})
    more = f" and {len(job_ids) - NAMED_MAX} more" if len(job_ids) > NAMED_MAX else ""
    return Conflict(
        f"{what}: {', '.join(job_ids[:NAMED_MAX])}{more}. Cancel them, or wait until they have ended.",
        code="checkpoint_in_use",
        job_ids=job_ids[:NAMED_MAX],
    )


def _pointed(connection: Connection, project_id: str, job_id: str, which: str) -> str:
    column = jobs.c.best_checkpoint_id if which == BEST else jobs.c.last_checkpoint_id
    query = select(jobs.c.id, column.label("found")).where(jobs.c.id == job_id, jobs.c.project_id == project_id)
    row = connection.execute(query).one_or_none()
    if row is None:
        raise NotFound(f"There is no job {job_id!r} here.", code="job_not_found")
    if row.found is None:
        raise NotFound(f"{job_id} has no {which} checkpoint.", code="no_checkpoint_yet")
    return str(row.found)
