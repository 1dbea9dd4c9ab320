"""References: how callers name a checkpoint from which a job is to start."""

from dataclasses import dataclass

from core.errors import Fault
from core.ids import is_id

BEST, LAST = "best", "last"
OF_PARENT = (BEST, LAST)
"""What a retry may name of the job that it runs again, without the job's id."""
FORMS = "`ckpt_…`, `job_…/best`, `job_…/last` or `job_…/ckpt_…`"


@dataclass(frozen=True, slots=True)
class Reference:
    """A checkpoint as callers name it: `which` is `best`, `last` or an id, of the job `job_id` where that is said."""

    which: str
    job_id: str | None = None

    @property
    def is_of_parent(self) -> bool:
        """Whether it means a checkpoint of the job that is run again."""
        return self.job_id is None and self.which in OF_PARENT


def read_reference(text: str) -> Reference | None:
    """What a text names; None where it has no form that names a checkpoint of this service."""
    job_id, slash, which = text.rpartition("/")
    if slash and not is_id("job", job_id):
        return None
    if which in OF_PARENT or is_id("ckpt", which):
        return Reference(which, job_id or None)
    return None


def form_faults(value: object, pointer: str) -> list[Fault]:
    """What is wrong with how a checkpoint is named, whichever there are. None names none."""
    if value is None:
        return []
    if not isinstance(value, str):
        return [Fault(pointer, "wrong_type", f"Expected the name of a checkpoint ({FORMS}), or null.")]
    if read_reference(value) is not None:
        return []
    message = (
        f"{value[:100]!r} names no checkpoint of this service: give {FORMS}. Paths and addresses are never read: only"
        " checkpoints that jobs of your project have saved."
    )
    return [Fault(pointer, "refused", message)]
